"""A team's servers: compose and Kubernetes files, their checks, and the same servers without
containers.
"""
