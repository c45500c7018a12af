package config

import (
	"fmt"
	"strings"
)

// Code is a configuration error code of the documented set.
type Code string

// The codes of configuration errors.
const (
	MissingKey      Code = "CFG-001" // a required key is absent or empty
	InvalidValue    Code = "CFG-002" // a key or value that is not allowed
	MissingVariable Code = "CFG-003" // an environment variable is not set
)

// Error is one thing wrong with a configuration. Its text names the key, the
// server if there is one, what was found and what is allowed, and never holds a
// secret.
type Error struct {
	Code    Code   `json:"code"`
	Path    string `json:"path,omitempty"`   // where in the file, e.g. DicomWeb.OAuth.Servers[0]
	Server  string `json:"server,omitempty"` // the server's name, if the path is inside one
	Key     string `json:"key,omitempty"`    // the key, if the path is inside a server
	Message string `json:"message"`
}

// Error implements error.
func (e *Error) Error() string {
	return place{path: e.Path, server: e.Server, key: e.Key}.prefix() + e.Message
}

// Errors is everything wrong with a configuration, in the order of the file's
// parts.
type Errors []*Error

// Error returns one line for each error.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, err := range e {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap lets errors.As find each *Error.
func (e Errors) Unwrap() []error {
	all := make([]error, len(e))
	for i, err := range e {
		all[i] = err
	}
	return all
}

// Warning is something that works and that an operator should know about.
type Warning struct {
	Path    string `json:"path,omitempty"`
	Server  string `json:"server,omitempty"`
	Key     string `json:"key,omitempty"`
	Message string `json:"message"`
}

// String returns the warning as one line.
func (w Warning) String() string {
	return place{path: w.Path, server: w.Server, key: w.Key}.prefix() + w.Message
}

// place is where in the file something stands. Inside a server the key is kept
// apart, so that a message reads: path "server": key: what is wrong.
type place struct {
	path   string
	server string
	key    string
}

// at returns the place of a key of the object at p.
func (p place) at(key string) place {
	switch {
	case p.server != "":
		p.key = join(p.key, key)
	default:
		p.path = join(p.path, key)
	}
	return p
}

// item returns the place of an element of the array at p.
func (p place) item(i int) place {
	index := fmt.Sprintf("[%d]", i)
	if p.server != "" {
		p.key += index
	} else {
		p.path += index
	}
	return p
}

// prefix returns what a message at p begins with.
func (p place) prefix() string {
	var b strings.Builder
	b.WriteString(p.path)
	if p.server != "" {
		fmt.Fprintf(&b, " %q", p.server)
	}
	if p.key != "" {
		b.WriteString(": " + p.key)
	}
	if b.Len() == 0 {
		return ""
	}
	return strings.TrimSpace(b.String()) + ": "
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// report collects errors and warnings while a configuration is read, so that an
// operator sees all of them at once.
type report struct {
	errs     Errors
	warnings []Warning
}

func (r *report) refuse(at place, code Code, format string, args ...any) {
	r.errs = append(r.errs, &Error{
		Code: code, Path: at.path, Server: at.server, Key: at.key, Message: fmt.Sprintf(format, args...),
	})
}

// invalid refuses a value in the usual words.
func (r *report) invalid(at place, found, allowed string) {
	r.refuse(at, InvalidValue, "found %s; allowed: %s", found, allowed)
}

func (r *report) warn(at place, format string, args ...any) {
	r.warnings = append(r.warnings, Warning{
		Path: at.path, Server: at.server, Key: at.key, Message: fmt.Sprintf(format, args...),
	})
}

// failed returns the errors as an error, or nil.
func (r *report) failed() error {
	if len(r.errs) == 0 {
		return nil
	}
	return r.errs
}

// downgrade turns the errors into warnings: those of a disabled section.
func (r *report) downgrade() {
	for _, e := range r.errs {
		r.warnings = append(r.warnings, Warning{
			Path: e.Path, Server: e.Server, Key: e.Key, Message: e.Message + " (Enabled is false, so this is only a warning)",
		})
	}
	r.errs = nil
}
