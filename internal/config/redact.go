package config

// redacted returns the section in its canonical place with secrets replaced.
func (d *document) redacted(s *schema) any {
	section := redact(d.section, s.root)
	if d.root == nil {
		return section
	}
	return map[string]any{"DicomWeb": map[string]any{"OAuth": section}}
}

// redact copies a tree and replaces what the schema marks as secret. A value
// the schema does not know could be anything, so it counts as secret.
func redact(value any, p *property) any {
	if p == nil {
		p = &property{Secret: true}
	}
	switch v := value.(type) {
	case map[string]any:
		object := make(map[string]any, len(v))
		for key, child := range v {
			object[key] = redact(child, p.inherit(p.child(key)))
		}
		return object
	case []any:
		array := make([]any, len(v))
		for i, child := range v {
			array[i] = redact(child, p.inherit(p.Items))
		}
		return array
	}
	if p.Secret && value != "" {
		return redacted
	}
	return value
}

// child returns the schema of a key of an object, or nil if there is none.
func (p *property) child(key string) *property {
	if child, ok := p.Properties[key]; ok {
		return child
	}
	return p.values()
}

// inherit makes what is inside a secret value secret as well.
func (p *property) inherit(child *property) *property {
	if p.Secret {
		return &property{Secret: true}
	}
	return child
}
