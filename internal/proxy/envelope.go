package proxy

import (
	"encoding/json"
	"math"
	"net/http"
	"strconv"
	"time"
)

// Envelope is the body of every JSON answer.
type Envelope struct {
	PluginVersion string `json:"plugin_version"`
	APIVersion    string `json:"api_version"`
	Timestamp     string `json:"timestamp"` // RFC 3339, UTC
	Data          any    `json:"data"`
}

// apiVersion is what the predecessor's clients look for.
const apiVersion = "2.0"

// ErrorBody is the data of an error's envelope.
type ErrorBody struct {
	Error           string         `json:"error"` // the code in words
	ErrorCode       string         `json:"error_code"`
	Category        string         `json:"category"`
	Severity        string         `json:"severity"`
	Message         string         `json:"message"` // what happened here
	Details         map[string]any `json:"details"`
	Troubleshooting []string       `json:"troubleshooting"`
}

// writeJSON answers with data in an envelope.
func writeJSON(w http.ResponseWriter, version string, status int, data any) {
	body, err := json.Marshal(Envelope{
		PluginVersion: version,
		APIVersion:    apiVersion,
		Timestamp:     time.Now().UTC().Format(time.RFC3339Nano),
		Data:          data,
	})
	if err != nil {
		http.Error(w, "encode answer", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)+1))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	w.Write(append(body, '\n')) // an error means that the caller is gone
}

// writeFailure answers with a failure. Server may be empty.
func writeFailure(w http.ResponseWriter, version string, f *Failure, status int, server string) {
	k := f.kind()
	details := map[string]any{"http_status": k.status}
	if server != "" {
		details["server"] = server
	}
	if f.remote != 0 {
		details["remote_status"] = f.remote
	}
	if f.Err != nil {
		details["cause"] = f.Err.Error()
	}
	if f.RetryAfter > 0 {
		seconds := int64(math.Ceil(f.RetryAfter.Seconds()))
		details["retry_after_seconds"] = seconds
		w.Header().Set("Retry-After", strconv.FormatInt(seconds, 10))
	}
	hints := f.Hints
	if hints == nil {
		hints = k.hints
	}
	writeJSON(w, version, status, ErrorBody{
		Error:           k.summary,
		ErrorCode:       f.Code,
		Category:        k.category,
		Severity:        k.severity,
		Message:         f.message(),
		Details:         details,
		Troubleshooting: hints,
	})
}
