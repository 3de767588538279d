"""Generated from proto/microedr/v1 by proto/generate.sh. Do not edit."""
