//! Several hosts as network namespaces of this one.
