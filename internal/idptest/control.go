package idptest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// maxControl bounds what a control request or its answer may hold: a list of
// maxRequests requests, with room.
const maxControl = 64 << 20

// World is one provider with what stands behind it. Gate, Target and Marks may be
// nil.
type World struct {
	IdP    *IdP
	Gate   *Gate
	Target *Target
	Marks  *Marks
	// Endpoint is where the provider listens, if an Order may take it down.
	Endpoint *Endpoint
}

// Report is everything that a World has counted.
type Report struct {
	IdP    Counts       `json:"idp"`
	Gate   GateCounts   `json:"gate"`
	Target TargetCounts `json:"target"`
}

// Order is one control request: every member that is set is carried out, in the
// order of the fields.
type Order struct {
	Behave    bool                `json:"behave,omitempty"` // see IdP.Behave
	Forget    bool                `json:"forget,omitempty"` // see IdP.Forget
	Script    []Answer            `json:"script,omitempty"`
	Always    *Answer             `json:"always,omitempty"`
	Secrets   map[string][]string `json:"secrets,omitempty"` // by client
	Revoke    []string            `json:"revoke,omitempty"`
	RevokeAll bool                `json:"revoke_all,omitempty"`
	Gate      *GateScript         `json:"gate,omitempty"`
	Expired   *bool               `json:"expired,omitempty"` // see Endpoint.Expire
	Down      *bool               `json:"down,omitempty"`    // the endpoint does not listen
}

// Do carries out an order. The error is that of an endpoint that could not come
// up again.
func (w World) Do(o Order) error {
	if o.Behave {
		w.IdP.Behave()
	}
	if o.Forget {
		w.IdP.Forget()
	}
	w.IdP.Script(o.Script...)
	if o.Always != nil {
		w.IdP.Always(*o.Always)
	}
	for client, secrets := range o.Secrets {
		w.IdP.SetSecrets(client, secrets...)
	}
	for _, token := range o.Revoke {
		w.IdP.Revoke(token)
	}
	if o.RevokeAll {
		w.IdP.RevokeAll()
	}
	if o.Gate != nil && w.Gate != nil {
		w.Gate.Script(*o.Gate)
	}
	return w.door(o)
}

// door opens and closes the provider's endpoint.
func (w World) door(o Order) error {
	if w.Endpoint == nil {
		return nil
	}
	if o.Expired != nil {
		if err := w.Endpoint.Expire(*o.Expired); err != nil {
			return err
		}
	}
	if o.Down == nil {
		return nil
	}
	if *o.Down {
		w.Endpoint.Down()
		return nil
	}
	return w.Endpoint.Up()
}

// Report returns what has been counted so far.
func (w World) Report() Report {
	r := Report{IdP: w.IdP.Counts()}
	if w.Gate != nil {
		r.Gate = w.Gate.Counts()
	}
	if w.Target != nil {
		r.Target = w.Target.Counts()
	}
	return r
}

// Control returns the handler of the control route: GET /report, GET /requests,
// GET /tokens, GET /uses, GET /marks and POST /order. It belongs on a loopback port of its own.
func (w World) Control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /report", func(rw http.ResponseWriter, _ *http.Request) { writeJSON(rw, http.StatusOK, w.Report()) })
	mux.HandleFunc("GET /requests", func(rw http.ResponseWriter, _ *http.Request) { writeJSON(rw, http.StatusOK, w.IdP.Requests()) })
	mux.HandleFunc("GET /tokens", func(rw http.ResponseWriter, _ *http.Request) { writeJSON(rw, http.StatusOK, w.IdP.Tokens()) })
	mux.HandleFunc("GET /uses", func(rw http.ResponseWriter, _ *http.Request) { writeJSON(rw, http.StatusOK, w.uses()) })
	mux.HandleFunc("GET /marks", func(rw http.ResponseWriter, _ *http.Request) { writeJSON(rw, http.StatusOK, w.marks()) })
	mux.HandleFunc("POST /order", func(rw http.ResponseWriter, r *http.Request) {
		var o Order
		in := json.NewDecoder(http.MaxBytesReader(rw, r.Body, maxControl))
		in.DisallowUnknownFields()
		if err := in.Decode(&o); err != nil {
			http.Error(rw, "decode order: "+err.Error(), http.StatusBadRequest)
			return
		}
		if err := w.Do(o); err != nil {
			http.Error(rw, err.Error(), http.StatusInternalServerError)
			return
		}
		writeJSON(rw, http.StatusOK, w.Report())
	})
	return mux
}

func (w World) uses() []Use {
	if w.Gate == nil {
		return nil
	}
	return w.Gate.Uses()
}

func (w World) marks() []Marked {
	if w.Marks == nil {
		return nil
	}
	return w.Marks.All()
}

// Remote controls a World in another process.
type Remote struct {
	URL    string // of the control route, without a slash at its end
	Client *http.Client
}

// Do carries out an order and returns the counts after it.
func (r Remote) Do(ctx context.Context, o Order) (Report, error) {
	raw, err := json.Marshal(o)
	if err != nil {
		return Report{}, fmt.Errorf("encode order: %w", err)
	}
	var report Report
	err = call(ctx, r.client(), r.URL+"/order", "application/json", string(raw), &report)
	return report, err
}

// Report returns what has been counted so far.
func (r Remote) Report(ctx context.Context) (Report, error) {
	var report Report
	err := call(ctx, r.client(), r.URL+"/report", "", "", &report)
	return report, err
}

// Requests returns the token requests so far.
func (r Remote) Requests(ctx context.Context) ([]Request, error) {
	var out []Request
	err := call(ctx, r.client(), r.URL+"/requests", "", "", &out)
	return out, err
}

// Uses returns who has come to the gate with which token.
func (r Remote) Uses(ctx context.Context) ([]Use, error) {
	var out []Use
	err := call(ctx, r.client(), r.URL+"/uses", "", "", &out)
	return out, err
}

// Tokens returns every token issued so far.
func (r Remote) Tokens(ctx context.Context) ([]string, error) {
	var out []string
	err := call(ctx, r.client(), r.URL+"/tokens", "", "", &out)
	return out, err
}

func (r Remote) client() *http.Client {
	if r.Client != nil {
		return r.Client
	}
	return http.DefaultClient
}

// call posts body (or gets, with an empty contentType) and decodes the answer.
func call(ctx context.Context, client *http.Client, url, contentType, body string, into any) error {
	method := http.MethodGet
	if contentType != "" {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxControl))
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, url, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s: %.200s", method, url, resp.Status, raw)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("%s %s: %w", method, url, err)
	}
	return nil
}
