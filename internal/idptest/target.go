package idptest

import (
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
	"sync"
)

// TargetConfig configures a Target.
type TargetConfig struct {
	// MaxBytes bounds the instances that are kept; default 256 MiB. One that does
	// not fit is reported as failed (out of resources).
	MaxBytes int64
	// Discard makes the target read instances, answer as if it had kept them, and
	// keep nothing: a sink for studies of any size, at constant memory.
	Discard bool
}

// TargetCounts is what a Target has seen.
type TargetCounts struct {
	Stored   int   `json:"stored"` // instances accepted
	Failed   int   `json:"failed"` // instances refused
	Bytes    int64 `json:"bytes"`  // of instances received
	Queries  int   `json:"queries"`
	Retrieve int   `json:"retrieves"`
}

// Target is a small DICOMweb server: STOW-RS of application/dicom, QIDO-RS for
// studies, series and instances, WADO-RS of whole studies, series and instances
// (DICOM PS3.18). It keeps instances in memory.
type Target struct {
	cfg TargetConfig

	mu        sync.Mutex
	instances []Instance
	bytes     int64
	counts    TargetCounts
}

// NewTarget returns an empty Target.
func NewTarget(cfg TargetConfig) *Target {
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = 256 << 20
	}
	return &Target{cfg: cfg}
}

// Counts returns what the target has seen.
func (t *Target) Counts() TargetCounts {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.counts
}

// resource is what a path names: UIDs from the outside in, and the level asked for.
type resource struct {
	study, series, sop string
	level              string // studies, series or instances when it is a search
}

// parseResource reads /studies/{}/series/{}/instances/{} wherever it starts in
// the path, so that a target can stand behind any base path.
func parseResource(path string) (resource, bool) {
	var r resource
	parts := strings.Split(strings.Trim(path, "/"), "/")
	for len(parts) > 0 && parts[0] != "studies" && parts[0] != "series" && parts[0] != "instances" {
		parts = parts[1:]
	}
	for len(parts) > 0 {
		uid := ""
		if len(parts) > 1 {
			uid = parts[1]
		}
		r.level = ""
		switch parts[0] {
		case "studies":
			r.study = uid
		case "series":
			r.series = uid
		case "instances":
			r.sop = uid
		default:
			return r, false
		}
		if uid == "" {
			r.level = parts[0]
			return r, true
		}
		parts = parts[2:]
	}
	return r, r.study != ""
}

// ServeHTTP implements http.Handler.
func (t *Target) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	res, ok := parseResource(r.URL.Path)
	switch {
	case !ok:
		http.NotFound(w, r)
	case r.Method == http.MethodPost && (res.level == "studies" || res.level == "" && res.series == ""):
		t.store(w, r)
	case r.Method != http.MethodGet:
		w.Header().Set("Allow", "GET, POST")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
	case res.level != "":
		t.search(w, r, res)
	default:
		t.retrieve(w, res)
	}
}

// store answers STOW-RS.
func (t *Target) store(w http.ResponseWriter, r *http.Request) {
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/related" || params["boundary"] == "" {
		http.Error(w, "want multipart/related with a boundary", http.StatusUnsupportedMediaType)
		return
	}
	var outcome stowOutcome
	parts := multipart.NewReader(r.Body, params["boundary"])
	for {
		part, err := parts.NextRawPart()
		if err == io.EOF { //nolint:errorlint // a wrapped EOF means that the request broke off
			break
		}
		if err != nil {
			http.Error(w, "read part: "+err.Error(), http.StatusBadRequest)
			return
		}
		d, reason, err := t.take(part)
		if err != nil {
			http.Error(w, "read instance: "+err.Error(), http.StatusBadRequest)
			return
		}
		outcome.add(d, reason)
	}
	outcome.write(w)
}

// Failure reasons of STOW-RS (DICOM PS3.18, table I.2-2).
const (
	outOfResources   = 0xA700
	cannotUnderstand = 0xC000
)

// headBytes is how much of an instance is looked at where it is not kept: the
// identifying elements come first.
const headBytes = 256 << 10

// take reads one part. A reason other than 0 says why the instance is not kept;
// an error, that the request broke off.
func (t *Target) take(part io.Reader) (Instance, int, error) {
	limit := t.room()
	if t.cfg.Discard {
		limit = headBytes
	}
	raw, err := io.ReadAll(io.LimitReader(part, limit))
	if err != nil {
		return Instance{}, 0, err
	}
	rest, err := io.Copy(io.Discard, part)
	if err != nil {
		return Instance{}, 0, err
	}
	d, err := ParseInstance(raw)
	return t.keep(d, int64(len(raw))+rest, rest > 0, err)
}

func (t *Target) room() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return max(t.cfg.MaxBytes-t.bytes, 0)
}

func (t *Target) keep(d Instance, size int64, cut bool, bad error) (Instance, int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counts.Bytes += size
	switch {
	case t.cfg.Discard && bad == nil:
		t.counts.Stored++
		return d, 0, nil
	case cut || t.bytes+size > t.cfg.MaxBytes:
		t.counts.Failed++
		return d, outOfResources, nil
	case bad != nil:
		t.counts.Failed++
		return d, cannotUnderstand, nil
	}
	t.counts.Stored++
	for n := range t.instances {
		if t.instances[n].SOP == d.SOP { // sent again: the newer one stays
			t.bytes += size - int64(len(t.instances[n].Raw))
			t.instances[n] = d
			return d, 0, nil
		}
	}
	t.bytes += size
	t.instances = append(t.instances, d)
	return d, 0, nil
}

// attributes is a DICOM JSON object (DICOM PS3.18, annex F).
type attributes map[string]attribute

type attribute struct {
	VR    string `json:"vr"`
	Value []any  `json:"Value,omitempty"`
}

func (a attributes) set(tag uint32, vr, value string) {
	attr := attribute{VR: vr}
	if value != "" && vr == "PN" {
		attr.Value = []any{map[string]string{"Alphabetic": value}}
	} else if value != "" {
		attr.Value = []any{value}
	}
	a[fmt.Sprintf("%08X", tag)] = attr
}

// stowOutcome is the body of a STOW-RS answer.
type stowOutcome struct{ stored, failed []any }

func (o *stowOutcome) add(d Instance, reason int) {
	a := attributes{}
	a.set(0x0008_1150, "UI", d.Class)
	a.set(0x0008_1155, "UI", d.SOP)
	if reason == 0 {
		o.stored = append(o.stored, a)
		return
	}
	a["00081197"] = attribute{VR: "US", Value: []any{reason}}
	o.failed = append(o.failed, a)
}

func (o *stowOutcome) write(w http.ResponseWriter) {
	answer := attributes{}
	if len(o.stored) > 0 {
		answer["00081199"] = attribute{VR: "SQ", Value: o.stored}
	}
	if len(o.failed) > 0 {
		answer["00081198"] = attribute{VR: "SQ", Value: o.failed}
	}
	status := http.StatusOK
	switch {
	case len(o.stored) == 0:
		status = http.StatusConflict
	case len(o.failed) > 0:
		status = http.StatusAccepted
	}
	w.Header().Set("Content-Type", "application/dicom+json")
	writeJSON(w, status, answer)
}

func (t *Target) match(res resource) (out []Instance) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, d := range t.instances {
		if (res.study == "" || d.Study == res.study) && (res.series == "" || d.Series == res.series) && (res.sop == "" || d.SOP == res.sop) {
			out = append(out, d)
		}
	}
	return out
}

// search answers QIDO-RS with one object for each study, series or instance.
func (t *Target) search(w http.ResponseWriter, r *http.Request, res resource) {
	t.mu.Lock()
	t.counts.Queries++
	t.mu.Unlock()
	query := r.URL.Query()
	answer := []attributes{}
	seen := map[string]bool{}
	for _, d := range t.match(res) {
		uid := map[string]string{"studies": d.Study, "series": d.Series, "instances": d.SOP}[res.level]
		if seen[uid] || !wanted(d, query) {
			continue
		}
		seen[uid] = true
		answer = append(answer, d.describe(res.level))
	}
	w.Header().Set("Content-Type", "application/dicom+json")
	writeJSON(w, http.StatusOK, answer)
}

// wanted applies the few search keys that matter here, by keyword and by tag.
func wanted(d Instance, query url.Values) bool {
	for name, value := range map[string]string{
		"StudyInstanceUID": d.Study, "0020000D": d.Study,
		"SeriesInstanceUID": d.Series, "0020000E": d.Series,
		"SOPInstanceUID": d.SOP, "00080018": d.SOP,
		"PatientID": d.PatientID, "00100020": d.PatientID,
		"PatientName": d.PatientName, "00100010": d.PatientName,
	} {
		if asked := query.Get(name); asked != "" && asked != "*" && asked != value {
			return false
		}
	}
	return true
}

func (d Instance) describe(level string) attributes {
	a := attributes{}
	a.set(tagStudyDate, "DA", d.StudyDate)
	a.set(tagPatientName, "PN", d.PatientName)
	a.set(tagPatientID, "LO", d.PatientID)
	a.set(tagStudy, "UI", d.Study)
	if level != "studies" {
		a.set(tagModality, "CS", d.Modality)
		a.set(tagSeries, "UI", d.Series)
	}
	if level == "instances" {
		a.set(tagClass, "UI", d.Class)
		a.set(tagSOP, "UI", d.SOP)
	}
	return a
}

// retrieve answers WADO-RS with whole instances.
func (t *Target) retrieve(w http.ResponseWriter, res resource) {
	t.mu.Lock()
	t.counts.Retrieve++
	t.mu.Unlock()
	found := t.match(res)
	if len(found) == 0 {
		http.Error(w, "no such instances", http.StatusNotFound)
		return
	}
	body := multipart.NewWriter(w)
	w.Header().Set("Content-Type", `multipart/related; type="application/dicom"; boundary=`+body.Boundary())
	for _, d := range found {
		part, err := body.CreatePart(textproto.MIMEHeader{"Content-Type": {"application/dicom"}})
		if err != nil {
			return
		}
		if _, err := part.Write(d.Raw); err != nil {
			return
		}
	}
	_ = body.Close()
}
