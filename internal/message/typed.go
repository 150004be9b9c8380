package message

import (
	"context"
	"encoding/json"
	"mime"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"plinth/internal/errs"
	"plinth/internal/pg"
)

// Handle registers a function for the messages of a queue whose payloads are T in the binary form of protocol buffers, or
// in their JSON form if the attribute content-type is application/json; unknown fields are ignored. A message whose
// payload is not a T becomes a dead letter.
func Handle[T proto.Message](queue string, handle func(context.Context, T) error, options ...Option) Handler {
	return HandleBytes(queue, typed(fromProto[T], handle), options...)
}

// HandleTx is Handle with effect once.
func HandleTx[T proto.Message](queue string, handle func(context.Context, *pg.Tx, T) error, options ...Option) Handler {
	return HandleBytesTx(queue, typedTx(fromProto[T], handle), options...)
}

// HandleJSON registers a function for the messages of a queue whose payloads are T in JSON, as encoding/json defines it:
// unknown fields are ignored, and nothing may follow the value. A message whose payload is not a T becomes a dead letter.
func HandleJSON[T any](queue string, handle func(context.Context, T) error, options ...Option) Handler {
	return HandleBytes(queue, typed(fromJSON[T], handle), options...)
}

// HandleJSONTx is HandleJSON with effect once.
func HandleJSONTx[T any](queue string, handle func(context.Context, *pg.Tx, T) error, options ...Option) Handler {
	return HandleBytesTx(queue, typedTx(fromJSON[T], handle), options...)
}

func typed[T any](decode func(Message) (T, error), handle func(context.Context, T) error) func(context.Context, Message) error {
	return func(ctx context.Context, m Message) error {
		v, err := decode(m)
		if err != nil {
			return err
		}
		return handle(ctx, v)
	}
}

func typedTx[T any](decode func(Message) (T, error), handle func(context.Context, *pg.Tx, T) error) func(context.Context, *pg.Tx, Message) error {
	return func(ctx context.Context, tx *pg.Tx, m Message) error {
		v, err := decode(m)
		if err != nil {
			return err
		}
		return handle(ctx, tx, v)
	}
}

func fromProto[T proto.Message](m Message) (v T, err error) {
	v = v.ProtoReflect().Type().New().Interface().(T)
	form, unmarshal := "binary", proto.Unmarshal
	if isJSON(m) {
		form, unmarshal = "JSON", protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal
	}
	if err := unmarshal(m.Body, v); err != nil {
		return v, errs.Wrap(err, errs.InvalidArgument, "payload: not a %s in %s form", v.ProtoReflect().Descriptor().FullName(), form)
	}
	return v, nil
}

func isJSON(m Message) bool {
	mediaType, _, _ := mime.ParseMediaType(m.Attributes["content-type"])
	return mediaType == "application/json"
}

func fromJSON[T any](m Message) (v T, err error) {
	if err := json.Unmarshal(m.Body, &v); err != nil {
		return v, errs.Wrap(err, errs.InvalidArgument, "payload: not a %T in JSON", v)
	}
	return v, nil
}
