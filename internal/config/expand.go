package config

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
)

// variable matches what Orthanc's core replaces: ${VAR} and ${VAR:-default}.
// The sidecar has no core, so it does the same; a default may be empty.
const variable = `\$\{([A-Za-z_][A-Za-z0-9_]*)(:-([^}]*))?\}`

// expander replaces variables in every string of a tree. Other than the core it
// works on parsed strings, so a quote in a value cannot break the file, and a
// variable that is not set is an error instead of nothing.
type expander struct {
	pattern *regexp.Regexp
	getenv  func(string) (string, bool)
	unset   func(path []string, name string)
}

func newExpander(getenv func(string) (string, bool), unset func(path []string, name string)) *expander {
	return &expander{pattern: regexp.MustCompile(variable), getenv: getenv, unset: unset}
}

// expandSection replaces variables in the section. The rest of orthanc.json
// follows the core: there an unset variable is an empty string.
func expandSection(d *document, getenv func(string) (string, bool), r *report) {
	x := newExpander(getenv, func(path []string, name string) {
		r.refuse(d.place(path), MissingVariable,
			"environment variable %q is not set; set it, or write ${%s:-default}", name, name)
	})
	x.tree(d.section, nil)
}

// tree replaces variables in place and returns what stands for v afterwards.
func (x *expander) tree(v any, path []string) any {
	switch t := v.(type) {
	case string:
		return x.text(t, path)
	case []any:
		for i := range t {
			t[i] = x.tree(t[i], append(slices.Clone(path), strconv.Itoa(i)))
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(t)) {
			t[key] = x.tree(t[key], append(slices.Clone(path), key))
		}
	}
	return v
}

func (x *expander) text(s string, path []string) string {
	return x.pattern.ReplaceAllStringFunc(s, func(ref string) string {
		parts := x.pattern.FindStringSubmatch(ref)
		if value, ok := x.getenv(parts[1]); ok {
			return value
		}
		if parts[2] == "" {
			x.unset(path, parts[1])
		}
		return parts[3]
	})
}

// lookupEnv returns the configured environment, or the process's.
func (o Options) lookupEnv() func(string) (string, bool) {
	if o.Getenv != nil {
		return o.Getenv
	}
	return os.LookupEnv
}
