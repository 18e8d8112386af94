"""What runs beyond the fence: the zygote, its workers, and what they fork. Standard library only.

These modules are imported by a bare interpreter that knows nothing of the project (as the top-level
package `inside`), so they import each other relatively and nothing else. The host side of the
sandbox is one folder up.
"""
