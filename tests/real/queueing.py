"""Runs a Python server with a queue for 128 connections instead of the usual 5, which twenty writers at once overflow.

queueing.py MODULE FUNCTION [ARGUMENT...]
"""

import importlib
import socketserver
import sys

if __name__ == "__main__":
    socketserver.TCPServer.request_queue_size = 128
    module, function = sys.argv[1:3]
    sys.argv[:3] = [module]
    sys.exit(getattr(importlib.import_module(module), function)())
