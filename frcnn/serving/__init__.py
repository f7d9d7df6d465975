"""Detection over HTTP: nginx, gunicorn and a Flask app, on a laptop as in SageMaker."""
