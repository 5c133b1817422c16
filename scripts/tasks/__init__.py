"""The generator of the shipped tasks: vocabulary (ops), kernel skeletons, families, splits."""
