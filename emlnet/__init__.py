"""EML-NET: where people look in a picture. The science: torch and its kin, no Ray."""
