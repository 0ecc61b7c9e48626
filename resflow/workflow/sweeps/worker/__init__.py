"""What executes a sweep's points: the cluster, a job for each execution, and the process that runs its notebook."""
