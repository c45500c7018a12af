package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// maxFiles bounds a configuration folder; Debian's has five.
const maxFiles = 256

// Read returns the content of a configuration file, or of a folder of them as
// Orthanc takes it: the *.json files directly in it, merged by their top-level
// keys, each of which may stand in one file only.
func Read(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", path, bare(err))
	}
	if !info.IsDir() {
		return readLimited(path, maxFile) // a pipe is all right here: nobody's Orthanc waits for it
	}
	names, err := filepath.Glob(filepath.Join(escapeGlob(path), "*.json"))
	if err != nil {
		return nil, fmt.Errorf("folder %q: %w", path, err)
	}
	if len(names) == 0 || len(names) > maxFiles {
		return nil, fmt.Errorf("folder %q holds %d *.json files; allowed: 1 to %d", path, len(names), maxFiles)
	}
	return mergeFiles(names)
}

// mergeFiles joins files by their top-level keys.
func mergeFiles(names []string) ([]byte, error) {
	whole := map[string]any{}
	from := map[string]string{}
	for _, name := range names {
		part, err := readObject(name)
		if err != nil {
			return nil, err
		}
		for _, key := range slices.Sorted(maps.Keys(part)) {
			if other, twice := from[key]; twice {
				return nil, fmt.Errorf("key %q stands in %q and in %q; Orthanc takes it from one file only", key, other, name)
			}
			whole[key], from[key] = part[key], name
		}
	}
	return json.Marshal(whole)
}

func readObject(name string) (map[string]any, error) {
	raw, err := readRegular(name, maxFile)
	if err != nil {
		return nil, err
	}
	tree, err := readJSON(raw)
	if err != nil {
		return nil, fmt.Errorf("file %q: %w", name, err)
	}
	object, ok := tree.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("file %q does not hold a JSON object", name)
	}
	return object, nil
}

// escapeGlob makes a folder's own name match itself only.
func escapeGlob(path string) string {
	var b []byte
	for _, c := range []byte(path) {
		if c == '*' || c == '?' || c == '[' || c == '\\' {
			b = append(b, '\\')
		}
		b = append(b, c)
	}
	return string(b)
}
