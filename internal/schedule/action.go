package schedule

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"plinth/internal/errs"
	"plinth/internal/message"
)

// maxArguments is the most bytes that arguments may have as JSON.
const maxArguments = 64 << 10

// Action is what a run does. Exactly one is set.
type Action struct {
	Publish *Publish    `json:"publish,omitempty"`
	HTTP    *HTTP       `json:"http,omitempty"`
	Job     *JobRequest `json:"job,omitempty"`
}

// Publish is a message to publish, as a template.
type Publish struct {
	Queue      string            `json:"queue,omitempty"`
	Topic      string            `json:"topic,omitempty"`
	RoutingKey string            `json:"routing_key,omitempty"`
	Text       string            `json:"text,omitempty"` // with replacements
	Data       []byte            `json:"data,omitempty"` // as it is; nil if there is a text
	Attributes map[string]string `json:"attributes,omitempty"`
	Delay      time.Duration     `json:"delay,omitempty"`
}

// HTTP is an HTTP request.
type HTTP struct {
	URL     string            `json:"url"`
	Method  string            `json:"method"`
	Headers map[string]string `json:"headers,omitempty"` // their values are secret
	Body    string            `json:"body,omitempty"`    // with replacements
	Secret  string            `json:"secret,omitempty"`  // that it is signed with
	Success []int             `json:"success,omitempty"`
}

// JobRequest names a job with its arguments.
type JobRequest struct {
	Name      string          `json:"name"`
	Arguments json.RawMessage `json:"arguments,omitempty"` // a JSON object
}

// kind returns the name of what is set.
func (a Action) kind() string {
	switch {
	case a.Publish != nil:
		return "publish"
	case a.HTTP != nil:
		return "http"
	default:
		return "job"
	}
}

func (a Action) job() string {
	if a.Job == nil {
		return ""
	}
	return a.Job.Name
}

// timeout is the most time of an attempt where none is set.
func (a Action) timeout() time.Duration {
	if a.HTTP != nil {
		return 30 * time.Second
	}
	return time.Hour
}

// check validates an action. Errors: InvalidArgument.
func (a Action) check(s *Service) error {
	switch {
	case a.Publish != nil && a.HTTP == nil && a.Job == nil:
		return a.Publish.check()
	case a.HTTP != nil && a.Publish == nil && a.Job == nil:
		return a.HTTP.check(s.outbound)
	case a.Job != nil && a.Publish == nil && a.HTTP == nil:
		if _, err := s.jobs.find(a.Job.Name); err != nil {
			return err
		}
		return a.checkArguments(s.jobs, a.Job.Arguments)
	default:
		return errs.New(errs.InvalidArgument, "publish: exactly one of publish, http and job must be set")
	}
}

// checkArguments validates the arguments of a run. Errors: InvalidArgument.
func (a Action) checkArguments(jobs jobs, arguments json.RawMessage) error {
	if len(arguments) > maxArguments {
		return errs.New(errs.InvalidArgument, "arguments: they have %d bytes; at most %d are allowed", len(arguments), maxArguments)
	}
	if a.Job == nil || len(arguments) == 0 {
		return nil
	}
	j, err := jobs.find(a.Job.Name)
	if err != nil || j.Check == nil {
		return err
	}
	if err := j.Check(arguments); err != nil {
		return errs.Wrap(err, errs.InvalidArgument, "arguments: the job %q does not take them: %v", j.Name, err)
	}
	return nil
}

func (p *Publish) check() error {
	if _, err := p.destination(); err != nil {
		return err
	}
	if err := checkTemplate("publish.message", p.Text); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(p.Attributes)) {
		if err := checkTemplate("publish.attributes", p.Attributes[name]); err != nil {
			return err
		}
	}
	return nil
}

func (p *Publish) destination() (message.Destination, error) {
	if p.Topic != "" {
		return message.ToTopic(p.Topic, p.RoutingKey)
	}
	queue, err := message.ParseQueueName(p.Queue)
	return message.ToQueue(queue), err
}

// publication returns the message of a run.
func (p *Publish) publication(r *Run) (message.Publication, error) {
	to, err := p.destination()
	if err != nil {
		return message.Publication{}, err
	}
	values := r.values()
	attributes := map[string]string{
		"run_id": r.ID, "schedule": r.Schedule.name, "trigger": string(r.Trigger), "fire_time": r.FireAt.Format(time.RFC3339Nano),
	}
	for name, value := range p.Attributes {
		attributes[name] = fill(value, values)
	}
	body := p.Data
	if body == nil {
		body = []byte(fill(p.Text, values))
	}
	return message.Publication{To: to, Body: body, Attributes: attributes, Delay: p.Delay}, nil
}

// placeholder is a name in a template that is replaced. What is in braces otherwise stays as it is.
var placeholder = regexp.MustCompile(`\{\{[a-z_]+\}\}`)

// placeholders are the names that may stand in a template.
var placeholders = []string{"arguments", "attempt", "due_time", "fire_time", "run_id", "schedule", "trigger"}

// checkTemplate refuses a name that is not known, which would go out as it is. Errors: InvalidArgument.
func checkTemplate(field, text string) error {
	for _, found := range placeholder.FindAllString(text, -1) {
		if !slices.Contains(placeholders, strings.Trim(found, "{}")) {
			return errs.New(errs.InvalidArgument, "%s: %.40s is not known; {{%s}} are", field, found, strings.Join(placeholders, "}}, {{"))
		}
	}
	return nil
}

// values returns what the placeholders of a run stand for.
func (r *Run) values() map[string]string {
	arguments := r.arguments()
	if len(arguments) == 0 {
		arguments = json.RawMessage("{}")
	}
	return map[string]string{
		"arguments": string(arguments), "attempt": strconv.Itoa(r.Attempt), "due_time": r.DueAt.Format(time.RFC3339Nano),
		"fire_time": r.FireAt.Format(time.RFC3339Nano), "run_id": r.ID, "schedule": r.Schedule.name, "trigger": string(r.Trigger),
	}
}

// arguments returns those that the run was triggered with, else those of its job.
func (r *Run) arguments() json.RawMessage {
	if len(r.Arguments) == 0 && r.action.Job != nil {
		return r.action.Job.Arguments
	}
	return r.Arguments
}

func fill(template string, values map[string]string) string {
	if !strings.Contains(template, "{{") {
		return template
	}
	return placeholder.ReplaceAllStringFunc(template, func(found string) string {
		if value, known := values[strings.Trim(found, "{}")]; known {
			return value
		}
		return found
	})
}
