"""The gateway's operations endpoints as a FastAPI application, one file per concern. Model calls do not pass here."""
