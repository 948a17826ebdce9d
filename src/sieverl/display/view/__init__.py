"""The viewer: a local web page over the run directories, which reads them and nothing else."""
