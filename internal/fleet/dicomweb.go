package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"time"

	"orthanc-oauth/internal/idptest"
)

// jobPatience is how long Orthanc may take to send or fetch a study.
const jobPatience = 30 * time.Second

// Knows returns an error unless Orthanc's DICOMweb plugin has a server of this
// name.
func (o *Orthanc) Knows(ctx context.Context, server string) error {
	var servers []string
	if err := o.Get(ctx, "/dicom-web/servers", &servers); err != nil {
		return err
	}
	if slices.Contains(servers, server) {
		return nil
	}
	return fmt.Errorf("server %q is not registered with Orthanc's DICOMweb yet", server)
}

// Load puts a study into this Orthanc and returns Orthanc's own id of it.
func (o *Orthanc) Load(ctx context.Context, study Study) (string, error) {
	var id string
	for _, d := range study.Instances {
		raw, err := o.Do(ctx, http.MethodPost, "/instances", "application/dicom", bytes.NewReader(d.Raw))
		if err != nil {
			return "", err
		}
		var stored struct{ ParentStudy string }
		if err := Decode("/instances", raw, &stored); err != nil {
			return "", err
		}
		id = stored.ParentStudy
	}
	return id, nil
}

// Stow loads a study and sends it to a server.
func (o *Orthanc) Stow(ctx context.Context, server string, study Study) error {
	id, err := o.Load(ctx, study)
	if err != nil {
		return err
	}
	return o.job(ctx, serverRoute(server)+"/stow", []string{id})
}

func serverRoute(server string) string { return "/dicom-web/servers/" + url.PathEscape(server) }

// job makes a request that Orthanc carries out as a job, and waits for its end.
// Not with Synchronous: dicom-web 1.7 then looks at the job every 100 ms, takes
// one that still waits for a thread for a failure (with the error "Success"),
// and drops the connection; which happens on a busy machine.
func (o *Orthanc) job(ctx context.Context, route string, resources any) error {
	var submitted struct{ ID string }
	if err := o.Post(ctx, route, map[string]any{"Resources": resources, "Synchronous": false}, &submitted); err != nil {
		return err
	}
	return Eventually(ctx, jobPatience, func(ctx context.Context) error {
		var job struct{ State, ErrorDescription, ErrorDetails string }
		if err := o.Get(ctx, "/jobs/"+submitted.ID, &job); err != nil {
			return err
		}
		switch job.State {
		case "Success":
			return nil
		case "Failure":
			return Final(fmt.Errorf("job of %s failed: %s %s", route, job.ErrorDescription, job.ErrorDetails))
		}
		return fmt.Errorf("job of %s is in state %s", route, job.State)
	})
}

// Retrieve gets a study from a server and returns how many of its instances
// came. It deletes the study here first, so that what is counted came back.
func (o *Orthanc) Retrieve(ctx context.Context, server string, study Study) (int, error) {
	id, err := o.Load(ctx, study)
	if err != nil {
		return 0, err
	}
	if _, err := o.Do(ctx, http.MethodDelete, "/studies/"+id, "", nil); err != nil {
		return 0, err
	}
	if err := o.job(ctx, serverRoute(server)+"/retrieve", []any{map[string]string{"Study": study.UID}}); err != nil {
		return 0, err
	}
	var instances []struct{ ID string }
	err = o.Get(ctx, "/studies/"+id+"/instances", &instances)
	return len(instances), err
}

// Query returns how many studies of this UID a server knows.
func (o *Orthanc) Query(ctx context.Context, server string, study Study) (int, error) {
	body := map[string]any{"Uri": "/studies", "Arguments": map[string]string{"StudyInstanceUID": study.UID}}
	var found []map[string]any
	err := o.Post(ctx, serverRoute(server)+"/qido", body, &found)
	return len(found), err
}

// Stow sends a study to a server.
func (s *Sidecar) Stow(ctx context.Context, server string, study Study) error {
	var body bytes.Buffer
	parts := multipart.NewWriter(&body)
	for _, d := range study.Instances {
		part, err := parts.CreatePart(textproto.MIMEHeader{"Content-Type": {"application/dicom"}})
		if err != nil {
			return fmt.Errorf("make body: %w", err)
		}
		_, _ = part.Write(d.Raw) // to memory
	}
	_ = parts.Close()
	contentType := `multipart/related; type="application/dicom"; boundary=` + parts.Boundary()
	_, err := s.Data.Do(ctx, http.MethodPost, "/"+url.PathEscape(server)+"/studies", contentType, &body)
	return err
}

// Retrieve gets a study from a server and returns how many of its instances
// came whole.
func (s *Sidecar) Retrieve(ctx context.Context, server string, study Study) (int, error) {
	resp, err := s.Data.Open(ctx, "/"+url.PathEscape(server)+"/studies/"+study.UID)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, params, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		return 0, fmt.Errorf("content type of a retrieve: %w", err)
	}
	return countInstances(multipart.NewReader(resp.Body, params["boundary"]))
}

// countInstances reads a multipart answer and counts the whole instances in it.
func countInstances(parts *multipart.Reader) (int, error) {
	for n := 0; ; n++ {
		part, err := parts.NextPart()
		if err == io.EOF { //nolint:errorlint // a wrapped EOF means that the answer broke off
			return n, nil
		}
		if err != nil {
			return n, fmt.Errorf("retrieve: %w", err)
		}
		raw, err := io.ReadAll(part)
		if err != nil {
			return n, fmt.Errorf("retrieve: %w", err)
		}
		if _, err := idptest.ParseInstance(raw); err != nil {
			return n, fmt.Errorf("retrieved instance: %w", err)
		}
	}
}

// Query returns how many studies of this UID a server knows.
func (s *Sidecar) Query(ctx context.Context, server string, study Study) (int, error) {
	raw, err := s.Data.Do(ctx, http.MethodGet, "/"+url.PathEscape(server)+"/studies?StudyInstanceUID="+study.UID, "", nil)
	if err != nil {
		return 0, err
	}
	var found []json.RawMessage
	err = Decode("/studies", raw, &found)
	return len(found), err
}
