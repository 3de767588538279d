"""What microedr services share. A module enters when two services use it; no domain nouns here."""
