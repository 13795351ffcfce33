package artifact

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// Bundle is a set of artifacts that travel together. Names, not addresses,
// link a deployment plan to its build plan and golden image.
type Bundle struct {
	Name        string // of the manifest, not of the file
	Description string
	ReadOnly    bool
	Created     time.Time // zero if unknown

	PlanScripts     []PlanScript
	BuildPlans      []BuildPlan
	DeploymentPlans []DeploymentPlan
	GoldenImages    []GoldenImage

	Ignored []string // entries that are well but mean nothing to us
}

// PlanScript is a script in the plan-script language.
type PlanScript struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	Description string `json:"description"`
	PlanType    string `json:"planType"` // deploy, capture or general
	HPProvided  bool   `json:"hpProvided"`
	Content     string `json:"content"`
}

// BuildPlan is a sequence of plan scripts.
type BuildPlan struct {
	ID               string            `json:"buildPlanid"`
	Name             string            `json:"name"`
	Description      string            `json:"description"`
	Type             string            `json:"oeBuildPlanType"` // deploy or capture
	HPProvided       bool              `json:"hpProvided"`
	Steps            []BuildStep       `json:"buildStep"`
	CustomAttributes []CustomAttribute `json:"customAttributes"`
}

// BuildStep runs one plan script. Steps run in the order of SerialNumber.
type BuildStep struct {
	SerialNumber   string `json:"serialNumber"`
	PlanScriptName string `json:"planScriptName"`
	PlanScriptURI  string `json:"planScriptUri"` // /rest/plan-scripts/<ID of the script in this bundle>
}

// CustomAttribute is a value that scripts ask for. The fields ID, Editable and
// Visible belong to deployment plans only.
type CustomAttribute struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	Description string `json:"description"`
	Type        string `json:"type"`
	Value       string `json:"value"`
	Constraints string `json:"constraints"` // JSON in a string
	Editable    bool   `json:"editable"`
	Visible     bool   `json:"visible"`
}

// DeploymentPlan joins a build plan, a golden image and attribute values.
type DeploymentPlan struct {
	ID               string            `json:"id"`
	Name             string            `json:"name"`
	Description      string            `json:"description"`
	HPProvided       bool              `json:"hpProvided"`
	GoldenImage      string            `json:"goldenImageURI"` // its name; "": none
	BuildPlan        string            `json:"oeBuildPlanURI"` // its name
	CustomAttributes []CustomAttribute `json:"customAttributes"`
}

// GoldenImage describes a disk image; its contents come from Open.
type GoldenImage struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	Description string `json:"description"`
	BundleName  string `json:"bundleName"`
	ReadOnly    bool   `json:"readOnly"`

	PayloadSize int64                         `json:"-"` // bytes that Open yields
	Open        func() (io.ReadCloser, error) `json:"-"` // the file as sent: see OpenImage
}

// text is a JSON value that other writers give as string, number, bool or null.
type text string

func (t *text) UnmarshalJSON(b []byte) error {
	switch {
	case string(b) == "null":
		*t = ""
		return nil
	case len(b) > 0 && b[0] == '"':
		var s string
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
		*t = text(s)
		return nil
	case len(b) > 0 && (b[0] == '{' || b[0] == '['):
		return fmt.Errorf("want a string, have %.20s", b)
	}
	*t = text(b)
	return nil
}

// UnmarshalJSON reads an attribute whose value may be null or a bare number.
func (a *CustomAttribute) UnmarshalJSON(b []byte) error {
	var w struct {
		ID, Name, Description, Type, Value text
		Constraints                        json.RawMessage
		Editable, Visible                  bool
	}
	w.Editable, w.Visible = true, true
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	*a = CustomAttribute{ID: string(w.ID), Name: string(w.Name), Description: string(w.Description), Type: string(w.Type),
		Value: string(w.Value), Editable: w.Editable, Visible: w.Visible}
	switch c := strings.TrimSpace(string(w.Constraints)); {
	case c == "" || c == "null":
		a.Constraints = "{}"
	case c[0] == '"':
		return json.Unmarshal(w.Constraints, &a.Constraints)
	default:
		a.Constraints = c // an object instead of its text
	}
	return nil
}

// UnmarshalJSON reads a step whose number may be a string or a number.
func (s *BuildStep) UnmarshalJSON(b []byte) error {
	var w struct{ SerialNumber, PlanScriptName, PlanScriptURI text }
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	*s = BuildStep{SerialNumber: string(w.SerialNumber), PlanScriptName: string(w.PlanScriptName), PlanScriptURI: string(w.PlanScriptURI)}
	return nil
}

var timeForms = []string{
	time.RFC3339Nano,
	"20060102T150405.999Z0700",
	"20060102T150405Z0700",
	"2006-01-02T15:04:05.999Z0700",
	"2006-01-02 15:04:05.999Z0700",
	"2006-01-02T15:04:05",
	"2006-01-02 15:04:05",
	"2006-01-02",
}

// ParseTime reads the forms of time that occur on this interface, also
// milliseconds since 1970. It reports false for anything else.
func ParseTime(s string) (time.Time, bool) {
	s = strings.TrimSpace(s)
	for _, form := range timeForms {
		if t, err := time.Parse(form, s); err == nil {
			return t.UTC(), true
		}
	}
	if ms, err := strconv.ParseInt(s, 10, 64); err == nil && ms > 0 && ms < 1<<47 {
		return time.UnixMilli(ms).UTC(), true
	}
	return time.Time{}, false
}
