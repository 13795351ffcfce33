package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"time"

	"baystream/qemu"
)

// deploymentPlan is what the demo reads of one.
type deploymentPlan struct {
	Name             string      `json:"name"`
	URI              string      `json:"uri"`
	GoldenImageURI   string      `json:"goldenImageURI"`
	CustomAttributes []attribute `json:"customAttributes"`
}

// bundle is the story of a published bundle.
func (s *story) bundle(ctx context.Context) error {
	if err := s.up(ctx, qemu.ModuleConfig{}); err != nil {
		return err
	}
	var task qemu.Task
	err := s.step("Upload artifact bundle "+filepath.Base(s.Bundle), func(tell func(string, int64, int64)) error {
		if err := s.rest.Upload(ctx, "/rest/artifact-bundles", nil, s.Bundle, func(done, total int64) { tell("upload", done, total) }, &task); err != nil {
			return err
		}
		var err error
		task, err = s.rest.WaitTask(ctx, task, func(t qemu.Task) { tell(t.Name, int64(t.Percent), 100) })
		return err
	})
	if err != nil {
		return err
	}
	err = s.step("Extract it", func(tell func(string, int64, int64)) error {
		_, err := s.work(ctx, "PUT", task.Resource.URI+"?extract=true", map[string]any{}, tell)
		return err
	})
	if err != nil {
		return err
	}
	plan, err := s.firstPlan(ctx)
	if err != nil {
		return err
	}
	attrs, shown := fill(plan.CustomAttributes)
	s.printf("         deployment plan %q; attributes: %s", plan.Name, describe(attrs))
	err = s.step("Assign a server profile: clone, personalise, export", func(tell func(string, int64, int64)) error {
		hw, err := s.register(ctx)
		if err != nil {
			return err
		}
		return s.assign(ctx, hw, plan.URI, attrs, tell)
	})
	if err != nil {
		return err
	}
	vm := s.frame.Compute(1)
	err = s.simple("Power on the server; wait for what its image shows", func() error {
		if err := vm.PowerOn(ctx); err != nil {
			return err
		}
		return s.waitShown(ctx, vm.Console(), shown)
	})
	if err != nil {
		return err
	}
	if len(shown) > 0 {
		s.printf("         the server's console shows: %s", strings.Join(shown, ", "))
	}
	return nil
}

// firstPlan is the first deployment plan, by name, that has a golden image.
func (s *story) firstPlan(ctx context.Context) (deploymentPlan, error) {
	var page struct {
		Members []deploymentPlan `json:"members"`
	}
	if err := s.rest.Get(ctx, "/rest/deployment-plans?start=0&count=-1&sort=name:ascending", &page); err != nil {
		return deploymentPlan{}, err
	}
	for _, p := range page.Members {
		if p.GoldenImageURI != "" {
			return p, nil
		}
	}
	return deploymentPlan{}, fmt.Errorf("no deployment plan of bundle %s has a golden image: choose a bundle that brings one, such as the Developer bundle", filepath.Base(s.Bundle))
}

// fill gives a value to every attribute that has none, and says which texts a
// server that shows its attributes will show.
func fill(have []attribute) (set []attribute, shown []string) {
	for i, a := range have {
		v := a.Value
		if v == "" {
			v = example(a, i)
		}
		if v == "" {
			continue
		}
		set = append(set, attribute{Name: a.Name, Value: v})
		if v != a.Value && !strings.EqualFold(a.Type, "password") {
			shown = append(shown, a.Name+": "+v)
		}
	}
	sort.Strings(shown)
	return set, shown
}

// example is a value that fits the attribute's type and constraints.
func example(a attribute, n int) string {
	var c struct {
		Minimum string `json:"minimum"`
	}
	_ = json.Unmarshal([]byte(a.Constraints), &c) // constraints of other types may have other shapes
	switch strings.ToLower(a.Type) {
	case "number":
		if c.Minimum != "" {
			return c.Minimum
		}
		return fmt.Sprint(4000 + n)
	case "ipv4":
		return fmt.Sprintf("192.0.2.%d", 100+n)
	case "fqdn":
		return fmt.Sprintf("demo%d.example.org", n)
	case "hostname":
		return fmt.Sprintf("demo%d", n)
	case "password":
		return fmt.Sprintf("Demo-%d", n)
	case "string", "":
		return fmt.Sprintf("Baystream %d", n)
	}
	return "" // options and NICs keep what the plan says
}

func describe(attrs []attribute) string {
	var out []string
	for _, a := range attrs {
		out = append(out, a.Name)
	}
	return strings.Join(out, ", ")
}

// waitShown waits until the console has shown every text. The vendor's test
// image waits ten seconds in a menu and then for a key.
func (s *story) waitShown(ctx context.Context, con *qemu.Console, shown []string) error {
	if len(shown) == 0 {
		return errors.New("the plan has no attribute that could show")
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for _, text := range shown {
		if _, err := con.WaitFrom(ctx, 0, regexp.MustCompile(regexp.QuoteMeta(text))); err != nil {
			return fmt.Errorf("%q on the console: %w", text, err)
		}
	}
	return nil
}
