package e2e

import (
	"context"
	"net/http"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	channelv1 "plinth/api/plinth/channel/v1"
)

func (p party) channels() channelv1.ChannelServiceClient {
	return channelv1.NewChannelServiceClient(p.http, p.url, p.options...)
}

// hiddenChannels is a message of acme to a channel, to which other publishes, too.
func hiddenChannels(t *testing.T, acme, _ party) hidden {
	const theirs = "hidden"
	text := func(text string) *channelv1.PublishRequest {
		return &channelv1.PublishRequest{Channel: theirs, Payload: &channelv1.PublishRequest_Text{Text: text}}
	}
	sent, err := acme.channels().Publish(t.Context(), text("secret"))
	if err != nil {
		t.Fatal(err)
	}
	url, err := acme.channels().CreateSubscribeUrl(t.Context(), &channelv1.CreateSubscribeUrlRequest{Channels: []string{theirs}})
	if err != nil {
		t.Fatal(err)
	}
	return hidden{
		tries: map[protoreflect.Name]func(*testing.T, party){
			"Publish": func(t *testing.T, other party) {
				if _, err := other.channels().Publish(t.Context(), text("other's")); err != nil { // acme's state has no such message.
					t.Error(err)
				}
			},
			"Subscribe": func(t *testing.T, other party) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				stream, err := other.channels().Subscribe(ctx, &channelv1.SubscribeRequest{Channels: []string{theirs}, Patterns: []string{"#"}, AfterId: sent.GetId()})
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = stream.Close() }()
				if _, err := other.channels().Publish(t.Context(), text("the end")); err != nil {
					t.Fatal(err)
				}
				for stream.Receive() {
					switch stream.Msg().GetMessage().GetText() {
					case "secret":
						t.Error("other sees acme's message")
					case "the end":
						return
					}
				}
				t.Error(stream.Err())
			},
			"CreateSubscribeUrl": func(t *testing.T, other party) {
				made, err := other.channels().CreateSubscribeUrl(t.Context(), &channelv1.CreateSubscribeUrlRequest{Channels: []string{theirs}})
				if err != nil || made.GetUrl() == url.GetUrl() {
					t.Fatalf("%v %v", made, err)
				}
				// A URL of acme's is acme's, whatever key comes with it: then the key decides.
				req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, other.url+url.GetUrl(), nil)
				req.Header.Set("X-Tenant", "other")
				res, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = res.Body.Close() }()
				if res.StatusCode != http.StatusForbidden {
					t.Errorf("acme's URL for the tenant other: %d", res.StatusCode)
				}
			},
			"GetChannel": func(t *testing.T, other party) {
				c, err := other.channels().GetChannel(t.Context(), &channelv1.GetChannelRequest{Channel: theirs})
				if err != nil || c.GetLastId() == sent.GetId() {
					t.Errorf("%v %v", c, err)
				}
			},
		},
		state: func(t *testing.T) []proto.Message {
			c, err := acme.channels().GetChannel(t.Context(), &channelv1.GetChannelRequest{Channel: theirs})
			if err != nil || c.GetLastId() != sent.GetId() {
				t.Fatalf("%v %v", c, err)
			}
			return []proto.Message{c}
		},
	}
}
