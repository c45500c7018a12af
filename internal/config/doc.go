// Package config turns orthanc.json, or a file of the sidecar's own, into one
// validated Config.
//
// It reads strictly: an unknown key, a wrong type or a value that cannot work is
// an error that names the key, the server, what was found and what is allowed,
// and all errors are reported at once. Older spellings are accepted with a
// warning. The canonical keys, their types and defaults stand in schema.json and
// nowhere else; what older deployments wrote stands in legacy.go; what a value
// must mean beyond its type, in the files named after the parts of the section.
//
// Secrets are held as SecretRef, which reads files again each time it is asked,
// and no message, log line or rendering of a Config contains one.
package config
