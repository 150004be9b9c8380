package api_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"plinth/api"
	_ "plinth/internal/app" // With the protos of all domains.
)

// protos returns every proto file of this module. It fails for a file that app does not link, because nothing serves it.
func protos(t *testing.T) (files []protoreflect.FileDescriptor) {
	t.Helper()
	paths, err := filepath.Glob("plinth/*/v*/*.proto")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no protos: %v", err)
	}
	for _, path := range paths {
		file, err := protoregistry.GlobalFiles.FindFileByPath(path)
		if err != nil {
			t.Fatalf("%s: %v; no row in internal/app/domains.go serves it", path, err)
		}
		files = append(files, file)
	}
	return files
}

// timeNames are the fields that say that they are times in other words, as prepositions do.
var timeNames = []string{"time", "at", "after", "missed_until"}

// Every field that is a time is named *_time (AIP-142), or is one of timeNames.
func TestTimesAreNamedAsTimes(t *testing.T) {
	times := 0
	var check func(messages protoreflect.MessageDescriptors)
	check = func(messages protoreflect.MessageDescriptors) {
		for i := range messages.Len() {
			fields := messages.Get(i).Fields()
			for j := range fields.Len() {
				f := fields.Get(j)
				if f.Message() == nil || f.Message().FullName() != "google.protobuf.Timestamp" {
					continue
				}
				times++
				if name := string(f.Name()); !strings.HasSuffix(name, "_time") && !strings.HasSuffix(name, "_times") && !slices.Contains(timeNames, name) {
					t.Errorf("%s is a time, so its name ends in _time", f.FullName())
				}
			}
			check(messages.Get(i).Messages())
		}
	}
	for _, file := range protos(t) {
		check(file.Messages())
	}
	if times == 0 {
		t.Error("no times in the protos")
	}
}

type operation struct {
	OperationID string `yaml:"operationId"`
	Parameters  []struct{ Name, In string }
	RequestBody *struct{ Content map[string]media } `yaml:"requestBody"`
	Responses   map[string]struct {
		Content map[string]media
		Ref     string `yaml:"$ref"`
	}
}

type media struct{ Schema map[string]any }

// Every method with a REST route is in the document, with its parameters, its body, its response and the error.
func TestOpenAPIHasEveryRoute(t *testing.T) {
	var doc struct {
		Paths map[string]map[string]operation
	}
	if err := yaml.Unmarshal(api.OpenAPI, &doc); err != nil {
		t.Fatal(err)
	}
	routes := 0
	for _, file := range protos(t) {
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				rule, _ := proto.GetExtension(methods.Get(j).Options(), annotations.E_Http).(*annotations.HttpRule)
				verb, path := route(rule)
				if verb == "" {
					continue
				}
				routes++
				op, ok := doc.Paths[path][verb]
				if !ok {
					t.Errorf("no %s %s", verb, path)
					continue
				}
				left := methods.Get(j).Input().Fields().Len() - strings.Count(path, "{") // for the body
				checkOperation(t, op, path, rule.GetBody() != "" && left > 0)
			}
		}
	}
	if routes == 0 {
		t.Error("no routes in the protos")
	}
}

func checkOperation(t *testing.T, op operation, path string, body bool) {
	t.Helper()
	if op.OperationID == "" {
		t.Errorf("%s has no operation id", path)
	}
	if body && (op.RequestBody == nil || len(op.RequestBody.Content["application/json"].Schema) == 0) {
		t.Errorf("%s: no request body", op.OperationID)
	}
	if len(op.Responses["200"].Content["application/json"].Schema) == 0 {
		t.Errorf("%s: no answer", op.OperationID)
	}
	if op.Responses["default"].Ref != "#/components/responses/Error" {
		t.Errorf("%s: no error answer", op.OperationID)
	}
	inPath := 0
	for _, p := range op.Parameters {
		if p.In == "path" {
			inPath++
			if !strings.Contains(path, "{"+p.Name+"}") {
				t.Errorf("%s: parameter %s is not in %s", op.OperationID, p.Name, path)
			}
		}
	}
	if inPath != strings.Count(path, "{") {
		t.Errorf("%s: %d parameters for %s", op.OperationID, inPath, path)
	}
}

func route(rule *annotations.HttpRule) (verb, path string) {
	switch p := rule.GetPattern().(type) {
	case *annotations.HttpRule_Get:
		return "get", p.Get
	case *annotations.HttpRule_Post:
		return "post", p.Post
	case *annotations.HttpRule_Put:
		return "put", p.Put
	case *annotations.HttpRule_Patch:
		return "patch", p.Patch
	case *annotations.HttpRule_Delete:
		return "delete", p.Delete
	}
	return "", ""
}

// No schema may exclude unknown fields, since the service ignores them. Every reference has a target.
func TestOpenAPISchemas(t *testing.T) {
	var doc yaml.Node
	if err := yaml.Unmarshal(api.OpenAPI, &doc); err != nil {
		t.Fatal(err)
	}
	var parsed struct {
		Components map[string]map[string]yaml.Node
	}
	if err := yaml.Unmarshal(api.OpenAPI, &parsed); err != nil {
		t.Fatal(err)
	}
	refs := 0
	var walk func(n *yaml.Node)
	walk = func(n *yaml.Node) {
		for i, child := range n.Content {
			if n.Kind == yaml.MappingNode && i%2 == 1 && n.Content[i-1].Value == "additionalProperties" && child.Value == "false" {
				t.Errorf("line %d: additionalProperties: false", child.Line)
			}
			if target, ok := strings.CutPrefix(child.Value, "#/components/"); ok {
				refs++
				kind, name, _ := strings.Cut(target, "/")
				if _, ok := parsed.Components[kind][name]; !ok {
					t.Errorf("line %d: no %s", child.Line, child.Value)
				}
			}
			walk(child)
		}
	}
	walk(&doc)
	if refs == 0 {
		t.Error("no references in the document")
	}
}
