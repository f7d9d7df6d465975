"""The SageMaker contract: what a container finds and must leave, and the requests that start one."""
