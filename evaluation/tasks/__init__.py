"""The benchmarks, one file each; every file here holds TASKS."""
