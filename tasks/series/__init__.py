"""Real series: the UCR and UEA archives, PPG-DaLiA."""
