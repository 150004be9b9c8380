package file

import (
	"context"
	"encoding/json"

	"plinth/internal/errs"
	"plinth/internal/message"
	"plinth/internal/pg"
)

// The topic of events, and their routing keys.
const (
	topic   = "files"
	created = "file.created"
	deleted = "file.deleted"
)

// event is the payload of a message that tells of a file.
type event struct {
	ID          string            `json:"id"`
	Filename    string            `json:"filename"`
	Folder      string            `json:"folder,omitempty"`
	Size        int64             `json:"size"`
	ContentType string            `json:"content_type"`
	Checksum    string            `json:"checksum"`
	Attributes  map[string]string `json:"attributes,omitempty"`
}

// tell publishes an event when tx is committed. That nobody listens is no error. A tenant whose quota of waiting messages is used up gets no
// new files if somebody listens, but can delete those that it has.
func (s *Service) tell(ctx context.Context, tx *pg.Tx, what string, f File) error {
	to, err := message.ToTopic(topic, what)
	if err != nil {
		return err
	}
	origin := message.Event
	if what == deleted {
		origin = message.EndEvent
	}
	if err = s.publish(ctx, tx, to, origin, f); errs.Is(err, errs.NotFound) {
		return nil
	}
	return err
}

// askInspectors publishes a file to the queue of those who decide on it.
func (s *Service) askInspectors(ctx context.Context, tx *pg.Tx, f File) error {
	queue, err := message.ParseQueueName(s.limits.InspectQueue)
	if err != nil {
		return err
	}
	return s.publish(ctx, tx, message.ToQueue(queue), message.Event, f)
}

func (s *Service) publish(ctx context.Context, tx *pg.Tx, to message.Destination, origin message.Origin, f File) error {
	body, err := json.Marshal(event{f.ID, f.Filename, f.Folder, f.Size, f.ContentType, f.Checksum, f.Attributes})
	if err != nil {
		return err
	}
	_, err = s.messages.PublishTx(ctx, tx, message.Publication{To: to, Body: body, Origin: origin})
	return err
}

// ensureInspectQueue creates the tenant's queue of files to inspect.
func (s *Service) ensureInspectQueue(ctx context.Context) error {
	if s.limits.InspectQueue == "" {
		return nil
	}
	queue, err := message.ParseQueueName(s.limits.InspectQueue)
	if err != nil {
		return err
	}
	return s.messages.EnsureQueue(ctx, queue)
}
