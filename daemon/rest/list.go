package rest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"baystream/daemon/domain"
)

// collection is the envelope of a list (spec section 2.2).
type collection struct {
	Category    string  `json:"category"`
	URI         string  `json:"uri"`
	Start       int     `json:"start"`
	Count       int     `json:"count"`
	Total       int     `json:"total"`
	PrevPageURI *string `json:"prevPageUri"`
	NextPageURI *string `json:"nextPageUri"`
	Members     any     `json:"members"`
}

// serveList answers the members that the request's filter, query, sort, start,
// count and fields leave over. It decodes members to compare them only when it
// is asked to.
func serveList[T any](s *Server, w http.ResponseWriter, r *http.Request, category, uri string, members []T) error {
	q := r.URL.Query()
	start, count, err := window(q)
	if err != nil {
		return err
	}
	match, err := filters(q, fieldsOf[T]())
	if err != nil {
		return err
	}
	less, err := sorting(q.Get("sort"), fieldsOf[T]())
	if err != nil {
		return err
	}
	c := collection{Category: category, URI: requestURI(uri, q), Start: start}
	only := wanted(q.Get("fields"))
	if match == nil && less == nil && only == nil {
		page(&c, uri, q, members, count)
		return s.ok(w, c)
	}
	objects, err := asObjects(members)
	if err != nil {
		return err
	}
	if match != nil {
		objects = slices.DeleteFunc(objects, func(o object) bool { return !match(o) })
	}
	if less != nil {
		slices.SortStableFunc(objects, less)
	}
	page(&c, uri, q, objects, count)
	if only != nil {
		for _, o := range c.Members.([]object) {
			for k := range o {
				if !only[strings.ToLower(k)] {
					delete(o, k)
				}
			}
		}
	}
	return s.ok(w, c)
}

// object is a decoded member.
type object = map[string]any

func asObjects[T any](members []T) ([]object, error) {
	b, err := json.Marshal(members)
	if err != nil {
		return nil, fmt.Errorf("encode members: %w", err)
	}
	out := []object{}
	return out, json.Unmarshal(b, &out)
}

// page cuts the members to start and count and says where the pages before and
// after are.
func page[T any](c *collection, uri string, q url.Values, all []T, count int) {
	from, to := min(c.Start, len(all)), len(all)
	if count >= 0 {
		to = min(from+count, len(all))
	}
	members := all[from:to]
	if members == nil {
		members = []T{}
	}
	c.Total, c.Count, c.Members = len(all), len(members), members
	at := func(start int) *string {
		next := maps.Clone(q)
		next.Set("start", strconv.Itoa(start))
		next.Set("count", strconv.Itoa(count))
		u := requestURI(uri, next)
		return &u
	}
	if count > 0 && to < len(all) {
		c.NextPageURI = at(to)
	}
	if count > 0 && from > 0 {
		c.PrevPageURI = at(max(0, from-count))
	}
}

// window reads start and count; a count of -1 or none means all.
func window(q url.Values) (start, count int, err error) {
	number := func(name string, least, other int) int {
		v := q.Get(name)
		if v == "" {
			return other
		}
		n, e := strconv.Atoi(v)
		if e != nil || n < least {
			err = domain.Errorf(domain.Invalid, "parameter "+name, "%q is not a number from %d up", v, least).
				Fix("Leave it out, or send a number; count=-1 means all.")
		}
		return n
	}
	start, count = number("start", 0, 0), number("count", -1, -1)
	return start, count, err
}

func requestURI(uri string, q url.Values) string {
	if len(q) == 0 {
		return uri
	}
	return uri + "?" + q.Encode()
}

func wanted(fields string) map[string]bool {
	if strings.TrimSpace(fields) == "" {
		return nil
	}
	only := map[string]bool{}
	for _, f := range strings.Split(fields, ",") {
		only[strings.ToLower(strings.TrimSpace(f))] = true
	}
	return only
}

// sorting reads "name:asc", "name:descending", several of them with commas.
func sorting(spec string, known []string) (func(a, b object) int, error) {
	if strings.TrimSpace(spec) == "" {
		return nil, nil
	}
	type key struct {
		field string
		sign  int
	}
	var keys []key
	for _, part := range strings.Split(spec, ",") {
		field, order, _ := strings.Cut(strings.TrimSpace(part), ":")
		k := key{sign: 1}
		switch strings.ToLower(strings.TrimSpace(order)) {
		case "", "asc", "ascending":
		case "desc", "descending":
			k.sign = -1
		default:
			return nil, domain.Errorf(domain.Invalid, "sort", "%q has an order that is not known", part).
				Fix("Use asc, ascending, desc or descending.")
		}
		var err error
		if k.field, err = knownField("sort", spec, field, known); err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return func(a, b object) int {
		for _, k := range keys {
			if c := compareValues(lookup(a, k.field), lookup(b, k.field)) * k.sign; c != 0 {
				return c
			}
		}
		return 0
	}, nil
}

// compareValues orders numbers by value and everything else as text without
// regard to case.
func compareValues(a, b any) int {
	x, okX := a.(float64)
	y, okY := b.(float64)
	if okX && okY {
		return cmp.Compare(x, y)
	}
	return strings.Compare(strings.ToLower(text(a)), strings.ToLower(text(b)))
}

func text(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case bool:
		return strconv.FormatBool(v)
	}
	b, _ := json.Marshal(v) // came out of JSON
	return string(b)
}

// lookup follows a dotted path into o.
func lookup(o object, path string) any {
	for {
		head, rest, more := strings.Cut(path, ".")
		v := o[head]
		if !more {
			return v
		}
		next, ok := v.(object)
		if !ok {
			return nil
		}
		o, path = next, rest
	}
}
