# Stands in for python:3.11-slim where no image can be pulled: Debian's Python, which answers to `python` and obeys pip.
FROM localhost/worker-test-debian
RUN rm -f /usr/lib/python3*/EXTERNALLY-MANAGED && ln -s python3 /usr/bin/python
