"""The reference pages, made from the code they describe: configuration, topics, commands.

`python -m deploy.reference` writes docs/reference anew (`make docs`); with `--check` it writes nothing and exits with 1
where a page is not what the code says.
"""
