//! The Python environment: found, or made once in the cache folder.
