"""The same roles as Ray processes. The one place for `import ray`."""
