package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// document is a configuration file: the section that is ours, and the rest of
// orthanc.json if the file is one.
type document struct {
	base    string         // path of the section; "" in a file that holds only the section
	section map[string]any // canonical after normalise
	root    map[string]any // nil in a file that holds only the section
	byName  bool           // Servers was an object by name
}

// The two places where the section may stand in orthanc.json.
const (
	canonicalBase = "DicomWeb.OAuth"
	legacyBase    = "DicomWebOAuth"
)

// locate finds the section in a parsed file.
func locate(tree any, s *schema, r *report) (*document, error) {
	root, ok := tree.(map[string]any)
	if !ok {
		return nil, errors.New("the file does not hold a JSON object")
	}
	dicomWeb, _ := root["DicomWeb"].(map[string]any)
	canonical, atCanonical := dicomWeb["OAuth"]
	legacy, atLegacy := root[legacyBase]
	switch {
	case atCanonical && atLegacy:
		return nil, fmt.Errorf("found both %q and its old spelling %q; keep the first", canonicalBase, legacyBase)
	case atCanonical:
		return sectionAt(canonicalBase, canonical, root)
	case atLegacy:
		r.warn(place{path: legacyBase}, "is the old place of this section; move it to %q", canonicalBase)
		return sectionAt(legacyBase, legacy, root)
	case holdsOnlySection(root, s):
		return &document{section: root}, nil
	}
	return nil, fmt.Errorf("no section %q (or %q, its old spelling) in this file", canonicalBase, legacyBase)
}

func sectionAt(base string, value any, root map[string]any) (*document, error) {
	section, ok := value.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%s: allowed: an object", base)
	}
	return &document{base: base, section: section, root: root}, nil
}

// holdsOnlySection tells a section from an orthanc.json without one. Keys that
// Orthanc or its plugins have as well, at the root, do not count.
func holdsOnlySection(root map[string]any, s *schema) bool {
	for key := range root {
		switch key {
		case "LogLevel", "Enabled", "ConfigVersion", "EnableMetrics":
			continue
		}
		if _, known := s.root.Properties[key]; known || slices.Contains([]string{"CacheType", "RedisUrl"}, key) {
			return true
		}
	}
	return false
}

// place returns where something stands by its path inside the section.
func (d *document) place(path []string) place {
	at := place{path: d.base}
	rest := path
	if len(path) >= 2 && path[0] == "Servers" {
		at, rest = d.serverPlace(path[1]), path[2:]
	}
	for _, step := range rest {
		if i, err := strconv.Atoi(step); err == nil {
			at = at.item(i)
		} else {
			at = at.at(step)
		}
	}
	return at
}

// serverPlace returns the place of a server, given its index or, while Servers
// still is an object, its name.
func (d *document) serverPlace(step string) place {
	at := place{path: d.base}.at("Servers")
	list, isArray := d.section["Servers"].([]any)
	if !isArray {
		at.server = step
		return at
	}
	i, _ := strconv.Atoi(step)
	if !d.byName {
		at = at.item(i)
	}
	if i < len(list) {
		if server, ok := list[i].(map[string]any); ok {
			at.server, _ = server["Name"].(string)
		}
	}
	return at
}

// listServers turns an object of servers by name into an array, sorted so that
// messages and the order of servers do not change from run to run.
func (d *document) listServers(r *report) {
	servers, ok := d.section["Servers"].(map[string]any)
	if !ok {
		return
	}
	list := make([]any, 0, len(servers))
	for _, name := range slices.Sorted(maps.Keys(servers)) {
		server, ok := servers[name].(map[string]any)
		if !ok {
			r.invalid(d.serverPlace(name), (&property{Secret: true}).describe(servers[name]), "an object")
			continue
		}
		if own, has := server["Name"]; has && own != name {
			r.refuse(d.serverPlace(name).at("Name"), InvalidValue, "differs from the key that names this server; remove it")
		}
		server["Name"] = name
		list = append(list, server)
	}
	d.section["Servers"] = list
	d.byName = true
}

// servers returns the elements of Servers that are objects, with their places.
func (d *document) servers() []element {
	list, _ := d.section["Servers"].([]any)
	var all []element
	for i, item := range list {
		if server, ok := item.(map[string]any); ok {
			all = append(all, element{at: d.serverPlace(strconv.Itoa(i)), object: server})
		}
	}
	return all
}

// element is an object of the file and where it stands.
type element struct {
	at     place
	object map[string]any
}
