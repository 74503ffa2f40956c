"""Tests of HLS code: exported networks, and the vendor's headers."""
