package file

import (
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"plinth/api"
)

// Every plain route is in the OpenAPI document, but for those that only repeat another one.
func TestOpenAPIHasPlainRoutes(t *testing.T) {
	t.Parallel()
	var doc struct {
		Paths map[string]map[string]any
	}
	if err := yaml.Unmarshal(api.OpenAPI, &doc); err != nil {
		t.Fatal(err)
	}
	repeated := map[string]bool{
		"HEAD /api/v1/files/{id}/content": true, "HEAD /api/v1/files/{id}/preview": true, "OPTIONS " + tusPath + "/{id}": true,
		"POST " + tusPath + "/{id}": true,
	}
	for _, route := range NewHTTP(&Service{}).Routes() {
		method, path, _ := strings.Cut(route.Pattern, " ")
		if doc.Paths[path][strings.ToLower(method)] == nil && !repeated[route.Pattern] {
			t.Errorf("no %s", route.Pattern)
		}
	}
}
