package config

import (
	"bytes"
	_ "embed" // the schema
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
)

//go:embed schema.json
var schemaJSON []byte

// Schema returns the JSON Schema (draft 2020-12) of the section, for editors.
func Schema() []byte { return bytes.Clone(schemaJSON) }

// property is what this package reads from the schema besides validating with
// it: annotations that become messages, defaults, redaction and documentation.
type property struct {
	Type        any                  `json:"type"`
	Enum        []string             `json:"enum"`
	Minimum     *json.Number         `json:"minimum"`
	Maximum     *json.Number         `json:"maximum"`
	Default     any                  `json:"default"`
	Description string               `json:"description"`
	Secret      bool                 `json:"writeOnly"`
	Ref         string               `json:"$ref"`
	Properties  map[string]*property `json:"properties"`
	Required    []string             `json:"required"`
	Items       *property            `json:"items"`
	Additional  json.RawMessage      `json:"additionalProperties"`
	Allowed     string               `json:"x-allowed"`
	DefaultText string               `json:"x-default"`
	Sidecar     bool                 `json:"x-sidecar"`
	Defs        map[string]*property `json:"$defs"`
}

// schema validates a section and knows its keys.
type schema struct {
	compiled *jsonschema.Schema
	root     *property
}

// newSchema compiles the embedded schema: 5 ms, once for each Parse. An error
// here is a defect of this package.
func newSchema() (*schema, error) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schemaJSON))
	if err != nil {
		return nil, fmt.Errorf("embedded schema: %w", err)
	}
	const name = "config.schema.json"
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource(name, doc); err != nil {
		return nil, fmt.Errorf("embedded schema: %w", err)
	}
	compiled, err := compiler.Compile(name)
	if err != nil {
		return nil, fmt.Errorf("embedded schema: %w", err)
	}
	root, err := readProperties()
	if err != nil {
		return nil, fmt.Errorf("embedded schema: %w", err)
	}
	return &schema{compiled: compiled, root: root}, nil
}

func readProperties() (*property, error) {
	dec := json.NewDecoder(bytes.NewReader(schemaJSON))
	dec.UseNumber()
	var root property
	if err := dec.Decode(&root); err != nil {
		return nil, err
	}
	return &root, root.resolve(root.Defs)
}

// resolve replaces references to $defs by what they refer to.
func (p *property) resolve(defs map[string]*property) error {
	if p.Items != nil {
		if err := p.Items.resolve(defs); err != nil {
			return err
		}
	}
	for _, child := range p.Properties {
		if err := child.resolve(defs); err != nil {
			return err
		}
	}
	if p.Ref == "" {
		return nil
	}
	def, ok := defs[strings.TrimPrefix(p.Ref, "#/$defs/")]
	if !ok {
		return fmt.Errorf("unknown reference %q", p.Ref)
	}
	*p = *def
	return p.resolve(defs)
}

// server returns the schema of one server.
func (s *schema) server() *property { return s.root.Properties["Servers"].Items }

// find returns the property at a path of keys and indexes, or nil.
func (s *schema) find(path []string) *property {
	p := s.root
	for _, step := range path {
		switch {
		case p == nil:
			return nil
		case p.Properties != nil:
			p = p.Properties[step]
		case p.Items != nil:
			p = p.Items
		default:
			p = p.values()
		}
	}
	return p
}

// values returns the schema of the values of an object with free keys.
func (p *property) values() *property {
	var values property
	if len(p.Additional) == 0 || json.Unmarshal(p.Additional, &values) != nil {
		return nil // no such keyword, or false
	}
	return &values
}

// allowed says in words which values the property takes.
func (p *property) allowed() string {
	switch {
	case p.Allowed != "":
		return p.Allowed
	case len(p.Enum) > 0:
		return quoteAll(p.Enum)
	case p.Minimum != nil && p.Maximum != nil:
		return fmt.Sprintf("%s from %s to %s", article(p.Type), *p.Minimum, *p.Maximum)
	}
	return article(p.Type)
}

func article(kind any) string {
	switch kind {
	case "boolean":
		return "true or false"
	case "integer", "object", "array":
		return fmt.Sprintf("an %v", kind)
	}
	return fmt.Sprintf("a %v", kind)
}

func quoteAll(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = strconv.Quote(w)
	}
	return strings.Join(quoted, ", ")
}

// describe renders a found value for a message, briefly and without secrets.
func (p *property) describe(value any) string {
	switch v := value.(type) {
	case map[string]any:
		return "an object"
	case []any:
		return "an array"
	case nil:
		return "null"
	case string:
		if p.Secret && v != "" {
			return "a string that is not shown"
		}
		return brief(v)
	}
	if p.Secret {
		return "a value that is not shown"
	}
	return fmt.Sprint(value)
}

// brief quotes a string and cuts it to what fits into a log line.
func brief(s string) string {
	const longest = 100
	if runes := []rune(s); len(runes) > longest {
		return strconv.Quote(string(runes[:longest])) + "..."
	}
	return strconv.Quote(s)
}

// validate checks the types of a section whose keys are canonical, and reports
// each violation in this package's words.
func (s *schema) validate(doc *document, r *report) {
	violation, ok := errors.AsType[*jsonschema.ValidationError](s.compiled.Validate(doc.section))
	if !ok {
		return
	}
	leaves := leafErrors(violation, nil)
	slices.SortStableFunc(leaves, func(a, b *jsonschema.ValidationError) int {
		return comparePaths(a.InstanceLocation, b.InstanceLocation)
	})
	var last []string
	for i, leaf := range leaves {
		// Two keywords may object to one value; the message names all that is allowed.
		if i > 0 && slices.Equal(last, leaf.InstanceLocation) && !aboutKeys(leaf) {
			continue
		}
		last = leaf.InstanceLocation
		s.translate(doc, leaf, r)
	}
}

func leafErrors(e *jsonschema.ValidationError, to []*jsonschema.ValidationError) []*jsonschema.ValidationError {
	if len(e.Causes) == 0 {
		return append(to, e)
	}
	for _, cause := range e.Causes {
		to = leafErrors(cause, to)
	}
	return to
}

// comparePaths orders the elements of an array by number.
func comparePaths(a, b []string) int {
	return slices.CompareFunc(a, b, func(x, y string) int {
		n, errN := strconv.Atoi(x)
		m, errM := strconv.Atoi(y)
		if errN == nil && errM == nil {
			return n - m
		}
		return strings.Compare(x, y)
	})
}

func aboutKeys(e *jsonschema.ValidationError) bool {
	switch e.ErrorKind.(type) {
	case *kind.AdditionalProperties, *kind.Required:
		return true
	}
	return false
}

func (s *schema) translate(doc *document, e *jsonschema.ValidationError, r *report) {
	at := doc.place(e.InstanceLocation)
	p := s.find(e.InstanceLocation)
	if p == nil {
		p = &property{Secret: true} // cannot be; and then nothing is shown
	}
	switch k := e.ErrorKind.(type) {
	case *kind.AdditionalProperties:
		slices.Sort(k.Properties)
		for _, key := range k.Properties {
			r.refuse(at, InvalidValue, "%s", s.unknownKey(p, key))
		}
	case *kind.Required:
		for _, key := range k.Missing {
			r.refuse(at, MissingKey, "%q is missing; it is %s", key, p.Properties[key].allowed())
		}
	default:
		r.invalid(at, p.describe(valueAt(doc.section, e.InstanceLocation)), p.allowed())
	}
}

// valueAt returns the value at a path of keys and indexes.
func valueAt(tree any, path []string) any {
	for _, step := range path {
		switch t := tree.(type) {
		case map[string]any:
			tree = t[step]
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= len(t) {
				return nil
			}
			tree = t[i]
		}
	}
	return tree
}

// unknownKey says which key was probably meant.
func (s *schema) unknownKey(p *property, key string) string {
	known := slices.Sorted(maps.Keys(p.Properties))
	if near := nearest(key, known); near != "" {
		return fmt.Sprintf("unknown key %q, did you mean %q?", key, near)
	}
	if home := s.home(key); home != "" {
		return fmt.Sprintf("unknown key %q; it belongs %s", key, home)
	}
	return fmt.Sprintf("unknown key %q; allowed: %s", key, strings.Join(known, ", "))
}

// home says where a key belongs that stands in the wrong object.
func (s *schema) home(key string) string {
	if _, ok := s.server().Properties[key]; ok {
		return "into a server"
	}
	for _, name := range slices.Sorted(maps.Keys(s.root.Properties)) {
		if _, ok := s.root.Properties[name].Properties[key]; ok {
			return "into " + name
		}
	}
	if _, ok := s.root.Properties[key]; ok {
		return "beside Servers"
	}
	return ""
}

// nearest returns the known key that differs from key by case only, or by few
// letters, or "".
func nearest(key string, known []string) string {
	best, least := "", max(2, len(key)/3)+1
	for _, k := range known {
		if d := editDistance(strings.ToLower(key), strings.ToLower(k)); d < least {
			best, least = k, d
		}
	}
	return best
}

// editDistance is Levenshtein's; a key longer than any of ours is far from all.
func editDistance(a, b string) int {
	const longest = 64
	if len(a) > longest {
		return longest
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substitute := diagonal
			if a[i] != b[j] {
				substitute++
			}
			diagonal = row[j+1]
			row[j+1] = min(substitute, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
