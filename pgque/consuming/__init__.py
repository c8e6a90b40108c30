"""Private modules of the consumer: handlers, and the processing of batches and messages."""
