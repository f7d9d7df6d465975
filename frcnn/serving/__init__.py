"""HTTP endpoint: nginx, gunicorn and a Flask app; the same on a laptop and in SageMaker."""
