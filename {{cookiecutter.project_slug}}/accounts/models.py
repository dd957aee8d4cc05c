from django.contrib.auth.models import AbstractUser


class User(AbstractUser):
    """A user of this service. Add fields here: Django can hardly exchange the model later."""
