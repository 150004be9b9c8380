package message

import (
	"encoding/base64"

	"github.com/google/uuid"

	"plinth/internal/errs"
)

// pullReceipt names one lease of one pulled message. Leases are random, so nobody can guess a receipt, and a message that is
// pulled again has another one. The tenant and the queue are not part of it: both are those of the call.
type pullReceipt struct{ id, lease uuid.UUID }

// receiptVersion is the first byte of a receipt.
const receiptVersion = 1

// String returns the receipt as the client gets it.
func (r pullReceipt) String() string {
	text := make([]byte, 0, 1+len(r.id)+len(r.lease))
	text = append(append(append(text, receiptVersion), r.id[:]...), r.lease[:]...)
	return base64.RawURLEncoding.EncodeToString(text)
}

func parsePullReceipt(text string) (r pullReceipt, err error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) != 1+len(r.id)+len(r.lease) || raw[0] != receiptVersion {
		return r, errs.New(errs.InvalidArgument, "receipt: %.64q is not a receipt, as Pull returns it", text)
	}
	copy(r.id[:], raw[1:])
	copy(r.lease[:], raw[1+len(r.id):])
	return r, nil
}

// errSpent is the result of a receipt that settles nothing.
func errSpent() error {
	return errs.New(errs.FailedPrecondition, "receipt: its lease is over, or it was settled before, or it is not of this queue; nothing was changed")
}
