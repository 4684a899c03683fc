"""Commands that train or pack data, here or on a cluster.  May import all of `pipelines`."""
