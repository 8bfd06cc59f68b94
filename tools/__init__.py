"""What trains, proves and remembers; see docs/architecture.md. Nothing that it loads reports to anybody."""

import os

# read when onnxruntime is first imported, by the memory or by Chroma: it would keep a device id and a queue of events
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
