"""The settings of a sandbox's partners."""

CRISIS_TEXT = {
    "default": "This is a sandbox. In a real service your crisis contacts stand here.",
    "es": "Esto es un entorno de pruebas. En un servicio real figuran aquí sus contactos de crisis.",
}


SETTING = {"risk_responder": "duty@sandbox.example", "secondary_responder": None, "crisis_text": CRISIS_TEXT, "classifier_on": True}
