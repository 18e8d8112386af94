"""What runs beyond the fence: the zygote, its workers, and what they fork. Standard library only.

    start, zygote, worker, template, step   from a bare interpreter to the process of one attempt
    order, practice                         what a template is asked, and what it rehearses before
    run, ending, process_tree               one attempt watched, and what its end means
    messages, plain_data, tools             what these processes send each other and hold
    fence/                                  what an attempt cannot do: the kernel's side
    verdict/                                what an attempt computed: asking, comparing, saying

These modules are imported by a bare interpreter that knows nothing of the project (as the top-level
package `inside`), so they import each other relatively and nothing else. The host side of the
sandbox is one folder up.
"""
