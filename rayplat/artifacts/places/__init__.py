"""Where objects lie: a folder, or a bucket of an S3 service."""
