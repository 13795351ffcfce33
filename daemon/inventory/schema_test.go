package inventory

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"
)

var update = flag.Bool("update", false, "rewrite schema.json from the types")

// TestSchemaIsThatOfTheTypes keeps schema.json what the types of a Document say.
func TestSchemaIsThatOfTheTypes(t *testing.T) {
	s, err := jsonschema.For[Document](nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Schema = "https://json-schema.org/draft/2020-12/schema"
	s.Title = "Baystream inventory"
	s.Description = "What an appliance module knows about itself and its frame, as served at " + uri + ". Members may be added."
	open(s)
	want, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, '\n')
	if *update {
		if err := os.WriteFile("schema.json", want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(want, Schema) {
		t.Error("schema.json is not what the types say: run go test ./daemon/inventory -run Schema -update, and read what changed")
	}
}

// open lets objects have members that we do not know yet.
func open(s *jsonschema.Schema) {
	if s == nil {
		return
	}
	if s.Properties != nil {
		s.AdditionalProperties = nil
	}
	for _, p := range s.Properties {
		open(p)
	}
	open(s.Items)
	open(s.AdditionalProperties)
}

// validate checks a document against the schema that is served.
func validate(t *testing.T, doc []byte) {
	t.Helper()
	var s jsonschema.Schema
	if err := json.Unmarshal(Schema, &s); err != nil {
		t.Fatal(err)
	}
	r, err := s.Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(doc, &v); err != nil {
		t.Fatal(err)
	}
	if err := r.Validate(v); err != nil {
		t.Errorf("document against schema: %v\n%s", err, doc)
	}
	// The schema is worth something: it refuses what is wrong.
	m := v.(map[string]any)
	m["disks"] = "none"
	if r.Validate(m) == nil {
		t.Error("the schema takes a text for disks")
	}
}
