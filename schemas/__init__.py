"""The contract between edge and cloud: records, codec, topics, features, sketches, errors.

Pure: no broker, no engine, no runtime for models, no clock, no files.
"""
