"""The families this project trains, one module each: SGLang scans this package
(SGLANG_EXTERNAL_MODEL_PACKAGE) and finds an architecture here without importing its 250 other model
files. An architecture that is missing falls back to those."""
