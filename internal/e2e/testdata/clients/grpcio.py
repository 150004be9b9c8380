"""Calls Plinth with Google's grpcio: PLINTH_API_KEY=... grpcio.py <host:port> <descriptor set>

The protos come as a descriptor set, as `buf build` writes it. A program with code that protoc generated imports its messages
and stubs instead. What came of the calls is printed as JSON.
"""

import json
import os
import queue
import sys

import grpc
from google.protobuf import descriptor_pb2, json_format, message_factory

address, protos = sys.argv[1:]
with open(protos, "rb") as file:
    types = message_factory.GetMessages(descriptor_pb2.FileDescriptorSet.FromString(file.read()).file)


def message(kind, /, **fields):
    return types["plinth.message.v1." + kind](**fields)


def rpc(arity, method, response):
    return arity(
        "/plinth.message.v1.MessageService/" + method,
        request_serializer=lambda request: request.SerializeToString(),
        response_deserializer=types["plinth.message.v1." + response].FromString,
    )


channel = grpc.insecure_channel(address)
create_queue = rpc(channel.unary_unary, "CreateQueue", "Queue")
publish = rpc(channel.unary_unary, "Publish", "PublishResponse")
consume = rpc(channel.stream_stream, "Consume", "ConsumeResponse")
metadata = [("authorization", "Bearer " + os.environ["PLINTH_API_KEY"])]


def subscribe(timeout):
    """Opens a stream: where its requests are put, None as the last one, and its replies."""
    requests = queue.SimpleQueue()
    requests.put(message("ConsumeRequest", subscribe={"queue": "grpcio"}))
    return requests, consume(iter(requests.get, None), metadata=metadata, timeout=timeout)


def failure(call):
    """What a call that fails tells: its code, its message, and the details, which come in a trailer."""
    try:
        call()
    except grpc.RpcError as error:
        status = dict(error.trailing_metadata()).get("grpc-status-details-bin", b"")
        details = [types[d.TypeName()].FromString(d.value) for d in types["google.rpc.Status"].FromString(status).details]
        return {
            "code": error.code().name,
            "message": error.details(),
            "details": {d.DESCRIPTOR.full_name: json_format.MessageToDict(d, preserving_proto_field_name=True) for d in details},
        }
    return None


create_queue(message("CreateQueueRequest", name="grpcio"), metadata=metadata, timeout=20)
hello = message("PublishRequest", queue="grpcio", message="hello from grpcio")
published = publish(hello, metadata=metadata, timeout=20)

requests, replies = subscribe(timeout=20)
received = next(replies).messages[0]
requests.put(message("ConsumeRequest", ack={"ids": [received.id]}))
requests.put(None)
for _ in replies:  # The stream ends once everything is settled.
    pass

nowhere = message("PublishRequest", queue="nowhere", message="hello")
print(json.dumps({
    "published": published.id,
    "received": {"id": received.id, "attempt": received.attempt, "payload": received.payload.decode()},
    "not_found": failure(lambda: publish(nowhere, metadata=metadata + [("x-request-id", "grpcio-1")], timeout=20)),
    "deadline": failure(lambda: next(subscribe(timeout=0.3)[1])),  # The queue is empty.
    "without_key": failure(lambda: publish(hello, timeout=20)),
}))
