"""The bank: every operand's quantizer parameters at every option, solved once, and its files."""
