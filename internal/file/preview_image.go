package file

import (
	"bufio"
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"

	"golang.org/x/image/webp"
)

const (
	previewType = "image/png"
	// maxPixels and maxPictureMemory bound an image before it is decoded: a file of a few bytes may say that it has any size.
	maxPixels        = 50_000_000
	maxPictureMemory = 256 << 20
	// pictureHead is how much of a file its size stands in. Photographs have previews of their own before it.
	pictureHead = 1 << 20
)

// pictureError says why an image has no preview.
type pictureError struct{ text string }

func (e *pictureError) Error() string { return e.text }

// shrink returns an image of any kind as PNG, with neither side longer than width. It makes nothing larger. What a camera wrote into the
// file, such as a place, is not in it.
func shrink(source io.Reader, width int) ([]byte, error) {
	in := bufio.NewReaderSize(source, pictureHead)
	head, _ := in.Peek(pictureHead) // What is shorter is all there is.
	kind, err := pictureOf(head)
	if err != nil {
		return nil, err
	}
	decoded, err := kind.decode(in)
	picture, ok := decoded.(image.RGBA64Image) // as those of all these decoders are
	if err != nil || !ok {
		return nil, &pictureError{"it is no whole image: its bytes cannot be read"}
	}
	var out bytes.Buffer
	err = png.Encode(&out, turn(scale(picture, width), kind.turned))
	return out.Bytes(), err
}

// pictureKind is what is known of an image before it is decoded.
type pictureKind struct {
	decode func(io.Reader) (image.Image, error)
	turned int // as Exif has it: 1 is upright
}

// pictureOf finds out what an image is, and refuses one that takes too much memory.
func pictureOf(head []byte) (k pictureKind, err error) {
	var size func(io.Reader) (image.Config, error)
	k.turned = 1
	switch {
	case bytes.HasPrefix(head, []byte("\xff\xd8\xff")):
		k.decode, size, k.turned = jpeg.Decode, jpeg.DecodeConfig, orientation(head)
	case bytes.HasPrefix(head, []byte("\x89PNG\r\n\x1a\n")):
		k.decode, size = png.Decode, png.DecodeConfig
	case bytes.HasPrefix(head, []byte("GIF8")):
		k.decode, size = gif.Decode, gif.DecodeConfig // The first frame.
	case len(head) > 12 && string(head[:4]) == "RIFF" && string(head[8:12]) == "WEBP":
		k.decode, size = webp.Decode, webp.DecodeConfig
	default:
		return k, &pictureError{"it is no JPEG, PNG, GIF or WebP"}
	}
	c, err := size(bytes.NewReader(head))
	if err != nil {
		return k, &pictureError{"it is no whole image: its bytes cannot be read"}
	}
	pixels := int64(c.Width) * int64(c.Height)
	if c.Width < 1 || c.Height < 1 || pixels > maxPixels || pixels*bytesPerPixel(c.ColorModel, head) > maxPictureMemory {
		return k, &pictureError{fmt.Sprintf("%d x %d pixels of its kind take too much memory", c.Width, c.Height)}
	}
	return k, nil
}

// bytesPerPixel is what decoding takes, at most.
func bytesPerPixel(model color.Model, head []byte) int64 {
	n := int64(4)
	switch model {
	case color.YCbCrModel:
		n = 3
	case color.GrayModel:
		n = 1
	case color.RGBA64Model, color.NRGBA64Model:
		n = 8
	}
	switch {
	case bytes.HasPrefix(head, []byte("\xff\xd8")):
		if isProgressive(head) { // The coefficients of all of it are held, each in four bytes.
			n *= 5
		}
		return n
	case bytes.HasPrefix(head, []byte("GIF8")):
		return 1
	}
	return 2 * n // PNG may be interlaced, WebP has its alpha beside it.
}

// scale returns an image with neither side longer than width. Each pixel is the mean of those that it stands for, which are read once and not
// copied.
func scale(picture image.RGBA64Image, width int) image.Image {
	from := picture.Bounds()
	w, h := from.Dx(), from.Dy()
	if most := max(w, h); most > width {
		w, h = max(1, w*width/most), max(1, h*width/most)
	}
	small := image.NewNRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			small.Set(x, y, mean(picture, image.Rect(x*from.Dx()/w, y*from.Dy()/h, (x+1)*from.Dx()/w, (y+1)*from.Dy()/h).Add(from.Min)))
		}
	}
	return small
}

// mean returns the mean of an area.
func mean(picture image.RGBA64Image, area image.Rectangle) color.Color {
	var r, g, b, a uint64
	for y := area.Min.Y; y < area.Max.Y; y++ {
		for x := area.Min.X; x < area.Max.X; x++ {
			c := picture.RGBA64At(x, y)
			r, g, b, a = r+uint64(c.R), g+uint64(c.G), b+uint64(c.B), a+uint64(c.A)
		}
	}
	n := uint64(area.Dx()) * uint64(area.Dy())
	return color.RGBA64{uint16(r / n), uint16(g / n), uint16(b / n), uint16(a / n)}
}
