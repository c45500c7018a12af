package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// Client makes JSON requests to one server.
type Client struct {
	Base           string // without a slash at its end
	User, Password string
	Token          string // bearer token, instead of User and Password
	HTTP           *http.Client
}

// client returns a Client of a loopback port that shares the fleet's
// connections, which end with the fleet.
func (f *Fleet) client(port int) Client {
	return Client{Base: fmt.Sprintf("http://127.0.0.1:%d", port), HTTP: f.http}
}

// StatusError is an answer that was no success.
type StatusError struct {
	Method, Path string
	Status       int
	Body         string // the beginning of it
}

// Error implements error.
func (e *StatusError) Error() string {
	return fmt.Sprintf("%s %s: %d %s: %s", e.Method, e.Path, e.Status, http.StatusText(e.Status), strings.TrimSpace(e.Body))
}

// maxAnswer bounds what is read of an answer, maxComplaint what an error shows
// of one.
const (
	maxAnswer    = 64 << 20
	maxComplaint = 1 << 10
)

// Do sends a request and returns the body of a success.
func (c Client) Do(ctx context.Context, method, path, contentType string, body io.Reader) ([]byte, error) {
	resp, err := c.open(ctx, method, path, contentType, body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	return raw, nil
}

// Open gets path and returns the answer, if it is a success, for the caller to
// read and close.
func (c Client) Open(ctx context.Context, path string) (*http.Response, error) {
	return c.open(ctx, http.MethodGet, path, "", nil)
}

func (c Client) open(ctx context.Context, method, path, contentType string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.Base+path, body)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	switch {
	case c.Token != "":
		req.Header.Set("Authorization", "Bearer "+c.Token)
	case c.User != "":
		req.SetBasicAuth(c.User, c.Password)
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return nil, withoutURL(method, path, err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	raw, _ := io.ReadAll(io.LimitReader(resp.Body, maxComplaint)) // whatever came of it is better than nothing
	return nil, &StatusError{Method: method, Path: path, Status: resp.StatusCode, Body: string(raw)}
}

// withoutURL drops the URL that net/http puts into its errors: its port says
// nothing to a reader who knows the server by name.
func withoutURL(method, path string, err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	return fmt.Errorf("%s %s: %w", method, path, err)
}

// Get decodes a JSON answer.
func (c Client) Get(ctx context.Context, path string, into any) error {
	raw, err := c.Do(ctx, http.MethodGet, path, "", nil)
	if err != nil {
		return err
	}
	return Decode(path, raw, into)
}

// Post sends JSON and decodes the answer, unless into is nil.
func (c Client) Post(ctx context.Context, path string, body, into any) error {
	raw, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode body of %s: %w", path, err)
	}
	raw, err = c.Do(ctx, http.MethodPost, path, "application/json", strings.NewReader(string(raw)))
	if err != nil || into == nil {
		return err
	}
	return Decode(path, raw, into)
}

// Decode decodes the JSON answer of a path.
func Decode(path string, raw []byte, into any) error {
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("answer of %s: %w", path, err)
	}
	return nil
}
